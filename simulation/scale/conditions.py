"""Under what conditions a study is measured: machine, versions, parameters, date."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil

PACKAGES = ("sms-simulator", "numpy", "uvloop", "msgspec")


def conditions(parameters: msgspec.Struct, **versions: str) -> dict[str, Any]:
    """As JSON values; further versions are those of the servers, and what matters with them."""
    return {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            **versions,
        },
        "parameters": msgspec.to_builtins(parameters),
    }


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""What the figures were measured on, and with which versions."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.servers import RabbitServer, RedisServer

PACKAGES = ("pika", "redis", "hiredis", "uvloop", "numpy", "msgspec")


def machine() -> dict[str, Any]:
    """Cores, memory, CPU model and system."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def versions(
    rabbit: RabbitServer, redis_server: RedisServer, packages: Iterable[str] = PACKAGES
) -> dict[str, str]:
    """Of Python, the servers, and the packages that matter for speed; those not installed are left out."""
    with redis.Redis(redis_server.host, redis_server.port) as client:
        redis_version = str(client.info("server")["redis_version"])
    return {
        "python": platform.python_version(),
        "rabbitmq": rabbit.ctl("version").strip(),
        "redis_server": redis_version,
        **{package: number for package in packages if (number := installed(package))},
    }


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Under what conditions a study is measured: machine, versions, parameters."""

import platform
from importlib.metadata import version
from typing import Any

import msgspec

from studies.machine import machine

PACKAGES = ("sms-simulator", "numpy", "uvloop", "msgspec")


def conditions(parameters: msgspec.Struct, **versions: str) -> dict[str, Any]:
    """As JSON values; further versions are those of the servers, and what matters with them."""
    return {
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            **versions,
        },
        "parameters": msgspec.to_builtins(parameters),
    }

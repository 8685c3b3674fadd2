"""Which version of the project this is."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "sms-simulator"


@cache
def project_version() -> str:
    """The installed version; in the image, which holds the project uninstalled, that of its pyproject.toml."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        pass
    try:
        pyproject = (Path(__file__).parent.parent / "pyproject.toml").read_bytes()
    except OSError:
        return "unknown"
    return str(tomllib.loads(pyproject.decode())["project"]["version"])

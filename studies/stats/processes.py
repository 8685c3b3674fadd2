"""Processes of this machine as services, each with its descendants."""

from collections.abc import Sequence
from pathlib import PurePath

import psutil

from common.errors import UsageError
from studies.meter import Meter, Usage


class Processes:
    """Samples processes by name."""

    def __init__(self) -> None:
        self._meter = Meter(children_every_s=0)

    def add(self, pid: int, name: str | None = None) -> str:
        """Samples a process from now on. Returns its name: the one given, or the program's. Raises UsageError."""
        try:
            process = psutil.Process(pid)
            name = name or service_name(process.name(), process.cmdline())
        except psutil.NoSuchProcess:
            raise UsageError(f"no process {pid}: it may have ended") from None
        except psutil.AccessDenied:
            raise UsageError(f"process {pid} may not be looked at: run this as its user") from None
        self._meter.add(name, process)
        return name

    async def sample(self) -> dict[str, Usage]:
        return self._meter.sample()


def service_name(program: str, argv: Sequence[str]) -> str:
    """The name of a process that was given none: its program, or the script or module that Python runs."""
    if not program.startswith("python") or "-c" in argv[1:2]:
        return program
    words = [word for word in argv[1:] if not word.startswith("-")]
    return PurePath(words[0]).name.removesuffix(".py") if words else program

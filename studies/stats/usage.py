"""What is sampled: the usage of each service at one moment, and who can tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

BEFORE, DURING, AFTER = "before", "during", "after"
# Stands for the volume in a command.
VOLUME = "{n}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a service has used so far: CPU seconds since some moment that stays, and the memory it holds now."""

    cpu_s: float
    memory_bytes: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.cpu_s + other.cpu_s, self.memory_bytes + other.memory_bytes)


class Watched(Protocol):
    """Services under watch, each by its name; those of one name count as one service."""

    async def look(self) -> Mapping[str, Usage]:
        """The usage now. A service of which nothing is left is missing; `cpu_s` never falls."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at all services, `at_s` seconds after the first; `volume` is the size of the run, if there is one."""

    at_s: float
    phase: str
    volume: int | None
    usage: Mapping[str, Usage]


def service_name(program: str, argv: Sequence[str]) -> str:
    """What to call a process that nobody named: its program, or the script or module that Python runs."""
    if not program.startswith("python") or "-c" in argv[1:2]:
        return program
    words = [word for word in argv[1:] if not word.startswith("-")]
    return PurePath(words[0]).name.removesuffix(".py") if words else program

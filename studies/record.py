"""The record of a study: its figures, with the date, the machine and the versions."""

import contextlib
import csv
import io
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from common.errors import SmsimError, UsageError

PACKAGES = ("pika", "redis", "hiredis", "uvloop", "numpy", "msgspec")

T = TypeVar("T")


class NotWritten(SmsimError):
    """A file cannot be written: look at the folder and the space in it, or choose another folder (exit code 1)."""


class Machine(msgspec.Struct, frozen=True):
    """The machine that figures were measured on.

    Attributes:
        cores, cpu: How many logical CPUs, and their model.
        memory_gb: In GB (10^9 bytes).
        system: Kernel and its version.
    """

    cores: int
    memory_gb: float
    cpu: str
    system: str

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        return cls(
            cores=os.cpu_count() or 1,
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            cpu=_cpu_model(),
            system=f"{platform.system()} {platform.release().split('-')[0]}",
        )


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one study, as they are written in JSON. Studies add their own fields.

    Attributes:
        measured_at: The date, in UTC.
        machine: Where it was measured; every process of the study ran there.
        versions: The versions of Python, servers and packages, by name.
    """

    measured_at: str
    machine: Machine
    versions: dict[str, str]

    @property
    def conditions(self) -> str:
        """When, where and with what it was measured, in a sentence."""
        return conditions(self.measured_at, self.machine, self.versions)


def conditions(date: str, machine: Machine, versions: dict[str, str]) -> str:
    """When, where and with what something was measured, in a sentence."""
    return (
        f"Measured {date} on {machine.cores} cores ({machine.cpu}), {machine.memory_gb:g} GB, {machine.system},"
        f" with everything on that machine; {', '.join(f'{name} {number}' for name, number in versions.items())}."
    )


def today() -> str:
    """The date, in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def versions(packages: Iterable[str], **servers: str) -> dict[str, str]:
    """The versions of Python, of the servers given, and of the packages that are installed."""
    installed = {package: installed_version(package) for package in packages}
    found = {package: number for package, number in installed.items() if number is not None}
    return {"python": platform.python_version(), **servers, **found}


def installed_version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read(path: Path, kind: type[T]) -> T:
    """Reads a record. Raises UsageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no such results: {error}") from None


def write(path: Path, record: msgspec.Struct) -> None:
    """Writes a record as JSON; makes its folder. Raises NotWritten."""
    write_file(path, msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes rows of the same columns as CSV. Returns the path. Raises NotWritten."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())
    return path


def write_file(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all; makes its folder. Raises NotWritten."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise NotWritten(f"{path}: can't be written: {error.strerror or error}") from None


def not_written(error: OSError, place: Path) -> NotWritten:
    """The error for a file that cannot be written; `place` is named where the system names none."""
    return NotWritten(f"{error.filename or place}: can't be written: {error.strerror or error}")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""The audit log: who did what, one JSON line an action. It has no secrets, numbers or texts.

Actions that the gateway refuses can come from strangers, so they are counted: the first of a kind is written at once,
and the number of the others every few seconds.
"""

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from common.errors import UsageError
from common.settings import Settings
from common.tracking.wire import iso

STANDARD_OUTPUT = Path("-")

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLimits:
    """The bounds of what strangers can make the log write, and times in seconds.

    Attributes:
        window_s: Refusals of one kind within this time share two lines.
        kinds: Kinds of refusals in that time that are told apart. All others are of one kind.
        look_s: How often a file is looked for that was moved away.
    """

    window_s: float = 10.0
    kinds: int = 50
    look_s: float = 1.0


LIMITS = AuditLimits()


class Refusal(NamedTuple):
    """A kind of refused actions.

    Attributes:
        operation: What was asked for, such as `POST /sms`; `*` where that does not matter.
        status: The HTTP status of the answer.
        key: The id of the API key, as far as one was sent; nobody checked it if the status is 401.
    """

    operation: str
    status: int
    key: str | None = None


OTHERS = Refusal("*", 403)


class AuditLog:
    """Gives its lines to `write`. A line that can't be written stops nothing; the service's log counts it."""

    def __init__(self, service: str, write: Callable[[bytes], None], limits: AuditLimits = LIMITS) -> None:
        self._service = service
        self._write = write
        self._limits = limits
        self._refused: Counter[Refusal] = Counter()
        self._telling: asyncio.TimerHandle | None = None
        self._unwritten = 0
        self._complained_s = float("-inf")

    def record(self, event: str, **about: Any) -> None:
        """Writes one line. `about` is JSON; None values are left out."""
        line = {"at": iso(time.time_ns() // 1000), "service": self._service, "event": event}
        line |= {name: value for name, value in about.items() if value is not None}
        try:
            self._write(_encode(line) + b"\n")
        except OSError as error:
            self._complain(error)

    def refused(self, refusal: Refusal, address: str | None = None) -> None:
        """Writes a refused action, or counts it. `address` is the client's."""
        if refusal not in self._refused and len(self._refused) >= self._limits.kinds:
            refusal, address = OTHERS, None
        self._refused[refusal] += 1
        if self._refused[refusal] == 1:
            self.record("refused", **refusal._asdict(), address=address)
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(self._limits.window_s, self._tell)

    def close(self) -> None:
        """Writes what was counted."""
        if self._telling is not None:
            self._telling.cancel()
        self._tell()

    def _tell(self) -> None:
        """Writes how many more refusals there were of each kind."""
        self._telling = None
        refused, self._refused = self._refused, Counter()
        for refusal, count in refused.items():
            if count > 1:
                self.record("refused", **refusal._asdict(), more=count - 1)

    def _complain(self, error: OSError) -> None:
        self._unwritten += 1
        now_s = time.monotonic()
        if now_s - self._complained_s >= self._limits.window_s:
            log.error("audit_not_written", extra={"lines": self._unwritten, "reason": error.strerror})
            self._complained_s, self._unwritten = now_s, 0


class _File:
    """Appends to a file, which is for its owner only. If it was moved away, another one is begun."""

    def __init__(self, path: Path, look_s: float) -> None:
        self._path = path
        self._look_s = look_s
        self._looks_s = 0.0
        self._descriptor = self._open()

    def write(self, line: bytes) -> None:
        """Appends a line. Raises OSError."""
        if time.monotonic() >= self._looks_s:
            self._follow()
        os.write(self._descriptor, line)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _follow(self) -> None:
        self._looks_s = time.monotonic() + self._look_s
        if not self._is_there():
            moved, self._descriptor = self._descriptor, self._open()
            os.close(moved)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


def open_audit_log(
    settings: Settings, service: str, stream: TextIO | None = None, *, limits: AuditLimits = LIMITS
) -> AuditLog | None:
    """The audit log of AUDIT_LOG; None unless it is set. `stream` is in place of stdout.

    A file may be moved away, as logrotate does. Raises UsageError if it can't be opened.
    """
    path = settings.audit_log
    if path is None:
        return None
    if path == STANDARD_OUTPUT:
        return AuditLog(service, partial(_write_to, stream or sys.stdout), limits)
    try:
        return AuditLog(service, _File(path, limits.look_s).write, limits)
    except OSError as error:
        raise UsageError(f"AUDIT_LOG={path}: can't be opened: {error.strerror}") from None


def open_command_audit(settings: Settings) -> Callable[..., None]:
    """A function that writes what a command does, and the user who ran it; it does nothing unless AUDIT_LOG is set.

    Call it before the command does anything: it raises UsageError if the log can't be opened. Lines go to stderr in
    place of stdout, which has the command's result.
    """
    audit = open_audit_log(settings, "command", sys.stderr)

    def record(event: str, **about: Any) -> None:
        if audit is not None:
            audit.record(event, by=f"uid {os.getuid()}", **about)

    return record


def _write_to(stream: TextIO, line: bytes) -> None:
    stream.write(line.decode())
    stream.flush()

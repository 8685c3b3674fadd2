"""Logs: one JSON line an event; phone numbers and texts of messages are masked."""

import contextlib
import fcntl
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from common.errors import UsageError
from common.messages import Batch, Message

LOG_FILE_BYTES = 10 * 1024 * 1024
LOG_FILE_BACKUPS = 5
# Events whose lines are counted at the same time.
MOST_EVENTS = 1000

_NUMBER = re.compile(r"\+[0-9]{4,}([0-9]{3})")


def mask(text: str) -> str:
    """The text with every phone number in it shortened to its last three digits: `+***567`."""
    return _NUMBER.sub(r"+***\1", text)


class MaskedJsonFormatter(JsonFormatter):
    """Formats a record as one JSON line, with numbers masked everywhere and texts of messages left out."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Leaves texts out; `text` is replaced by its length."""
        return {name: _without_texts(name, value) for name, value in log_data.items()}

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Masks the whole line: keys, exceptions and objects too."""
        return mask(super().jsonify_log_record(log_data))


def _without_texts(name: str, value: Any) -> Any:
    if name == "text" and isinstance(value, str):
        return f"<{len(value)} characters>"
    if isinstance(value, Message | Batch):
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {k: _without_texts(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_texts(name, v) for v in value]
    return value


class FloodFilter(logging.Filter):
    """Bounds the lines of an event within some seconds. Its next line after that has the number of those left out.

    What others can cause must not fill the log. Lines below WARNING always pass.
    """

    def __init__(
        self, lines: int = 20, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._lines = lines
        self._every_s = every_s
        self._clock = clock
        self._events: dict[tuple[str, object], _Event] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING:
            return True
        if len(self._events) >= MOST_EVENTS:
            self._events.clear()
        now_s = self._clock()
        event = self._events.setdefault((record.name, record.msg), _Event(now_s))
        event.lines += 1
        if now_s - event.since_s < self._every_s:
            return event.lines <= self._lines
        if event.lines - 1 > self._lines:
            record.left_out = event.lines - 1 - self._lines
        event.since_s, event.lines = now_s, 1
        return True


@dataclass(slots=True)
class _Event:
    """The lines of one event.

    Attributes:
        since_s: When they began to be counted.
        lines: How many there were.
    """

    since_s: float
    lines: int = 0


class _Target(logging.StreamHandler[TextIO]):
    """Writes lines. A full disk or a missing folder ends nothing: the first lost line is reported on stderr."""

    _reported = False

    @property
    def _where(self) -> str:
        return str(self.stream.name)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name for it
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._reported:
            self._reported = True
            with contextlib.suppress(OSError):
                sys.stderr.write(f"logs can't be written to {self._where}: {error.strerror}\n")


class _Stream(_Target):
    """Writes to a stream. When its reader is gone (`| head -1`), ends the process as SIGTERM does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name for it
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            signal.raise_signal(signal.SIGTERM)
        else:
            super().handleError(record)


class _SharedFile(_Target, RotatingFileHandler):
    """A rotating file that several processes write. One of them rotates it, and the others follow.

    A file or folder that somebody removes or renames is made again, or awaited.
    """

    def __init__(self, path: Path) -> None:
        RotatingFileHandler.__init__(
            self, path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILE_BACKUPS, encoding="utf-8"
        )

    @property
    def _where(self) -> str:
        return self.baseFilename

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with self._locked():
                self._follow()
                super().emit(record)
        except OSError:
            self.handleError(record)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the folder: that needs no file of its own. The folder may be another one than before."""
        folder = os.open(os.path.dirname(self.baseFilename), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _follow(self) -> None:
        """Opens the file anew if another process has rotated it."""
        stream = self.stream
        if stream and not stream.closed:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.baseFilename), os.fstat(stream.fileno())):
                    return
            with contextlib.suppress(OSError):  # of lines that found no room
                stream.close()
        self.stream = self._open()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def configure_logs(
    service: str, level: str = "INFO", log_file: Path | None = None, stream: TextIO | None = None
) -> None:
    """Sends all logs as JSON lines to a stream (stdout unless given) and, if asked, to a rotating file too.

    The file rotates at 10 MiB; five older files are kept. Several processes may share it. Raises UsageError if it can't
    be opened.
    """
    handlers: list[logging.Handler] = [_Stream(stream or sys.stdout)]
    if log_file is not None:
        try:
            handlers.append(_SharedFile(log_file))
        except OSError as error:
            raise UsageError(f"LOG_FILE={log_file}: can't be opened: {error.strerror}") from None
    formatter = MaskedJsonFormatter(
        "{message}{levelname}{name}",
        style="{",
        rename_fields={"levelname": "level", "message": "event", "name": "logger"},
        timestamp=True,
        static_fields={"service": service},
    )
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(FloodFilter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    # pika logs each lost connection several times, with tracebacks. Our own log has one line for it.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)

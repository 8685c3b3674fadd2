"""Logs: one JSON line an event; phone numbers and texts of messages are masked."""

import logging
import re
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from common.errors import UsageError

LOG_FILE_BYTES = 10 * 1024 * 1024
LOG_FILE_BACKUPS = 5

_NUMBER = re.compile(r"\+[0-9]{4,}([0-9]{3})")


def mask(text: str) -> str:
    """The text with every phone number in it shortened to its last three digits: `+***567`."""
    return _NUMBER.sub(r"+***\1", text)


class MaskedJsonFormatter(JsonFormatter):
    """Formats a record as one JSON line, with numbers masked everywhere and texts of messages left out."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Masks each field; `text` is replaced by its length."""
        return {name: _masked(name, value) for name, value in log_data.items()}


def _masked(name: str, value: Any) -> Any:
    if name == "text" and isinstance(value, str):
        return f"<{len(value)} characters>"
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {k: _masked(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, v) for v in value]
    return value


def configure_logs(
    service: str, level: str = "INFO", log_file: Path | None = None, stream: TextIO | None = None
) -> None:
    """Sends all logs as JSON lines to a stream (stdout unless given) and, if asked, to a rotating file too.

    The file turns over at 10 MiB and keeps five older ones. Raises UsageError if it can't be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stdout)]
    if log_file is not None:
        try:
            handlers.append(
                RotatingFileHandler(
                    log_file, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILE_BACKUPS, encoding="utf-8"
                )
            )
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
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    # pika logs each lost connection several times over, with tracebacks; ours says it once, in one line.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)

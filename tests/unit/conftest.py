"""A bare environment for settings, and a process that is after each test as it was before."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.settings import Settings


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No setting of ours in the environment, and a working directory without `.env`."""
    ours = set(Settings.model_fields)
    for name in list(os.environ):
        if name.lower() in ours:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """Takes back what a command does to its process: log handlers, log levels and signal handlers."""
    root = logging.getLogger()
    level = root.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    logging.getLogger("pika").setLevel(logging.NOTSET)
    for number, before in handlers.items():
        signal.signal(number, before)

"""A process that is after each test as it was before."""

import logging
import signal
from collections.abc import Iterator

import pytest


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

"""The image, built once, and a stack of which each test leaves the servers running."""

import os
from collections.abc import Iterator

import pytest

from tests.docker.stack import Stack


@pytest.fixture(scope="session")
def image() -> str:
    """The image that all stacks use, built by compose as a user's would be."""
    Stack().compose("build", "sender")
    return os.environ.get("SMSIM_IMAGE") or "sms-simulator:local"


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    stack = Stack(MEAN_PROCESSING_TIME=0.2, SENDER_CONCURRENCY=50)
    try:
        stack.up(5)
        yield stack
    finally:
        stack.close()

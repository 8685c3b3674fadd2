"""The watch on blocking calls, which every test runs under."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockingError

import common.errors


def product_function(code: str) -> Callable[[], Any]:
    """A function `f` that looks as if a module of the product defined it."""
    names: dict[str, Any] = {}
    exec(compile(code, common.errors.__file__, "exec"), names)
    found: Callable[[], Any] = names["f"]
    return found


sleeps = product_function("import time\ndef f():\n    time.sleep(0)")
runs_a_program = product_function("import subprocess\ndef f():\n    subprocess.run(['true'])")
reads = product_function(f"def f():\n    return open({__file__!r}).read()")


@pytest.mark.parametrize("blocks", [sleeps, runs_a_program])
async def test_a_blocking_call_of_the_product_fails_in_a_coroutine(blocks: Callable[[], Any]) -> None:
    """However short it is."""
    with pytest.raises(BlockingError):
        blocks()


async def test_a_blocking_call_is_allowed_in_a_thread() -> None:
    """The event loop goes on meanwhile."""
    await asyncio.to_thread(sleeps)


def test_a_blocking_call_is_allowed_without_an_event_loop() -> None:
    """Synchronous code may block."""
    sleeps()


async def test_tests_may_block_and_the_product_may_read_files() -> None:
    """A test may stop its own loop; a small local file is read as quickly as a thread is started."""
    time.sleep(0)  # noqa: ASYNC251  # the point of the test
    assert reads()

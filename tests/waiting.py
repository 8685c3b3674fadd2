"""Waits for a condition with a deadline. Tests wait in no other way."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_POLL_S = 0.02


async def eventually(
    condition: Callable[[], Any], deadline_s: float = 60, describe: str | None = None
) -> Any:
    """Polls `condition` until its result is true, and returns that result.

    An AssertionError in it means "not yet", so that a condition may be a few asserts that end in `return True`.

    Raises:
        TimeoutError: It did not become true in time. The text has the condition and the last result.
    """
    ends = time.monotonic() + deadline_s
    while True:
        last: object
        try:
            result = condition()
            value = await result if inspect.isawaitable(result) else result
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() > ends:
            raise TimeoutError(
                f"not so within {deadline_s} s: {describe or _source(condition)}; last: {last!r}"
            ) from (last if isinstance(last, AssertionError) else None)
        await asyncio.sleep(_POLL_S)


def _source(condition: Callable[..., object]) -> str:
    """The source of the condition, if Python can find it."""
    try:
        lines = inspect.getsource(condition).split()
    except (OSError, TypeError):
        return repr(condition)
    return " ".join(lines)[:300]

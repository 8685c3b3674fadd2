"""A thousand WebSocket clients at once: each hears everything, and one that never reads holds up nobody."""

import asyncio
import json
import resource
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from common.tracking.port import Status
from tests.gateway.streaming import Streaming, step_of, streaming
from tests.gateway.test_events import WEBSOCKET, deaf

CLIENTS = 1_000
MESSAGES = 200
STATUSES = (Status.QUEUED, Status.SENDING, Status.SENT)


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """As many open files as this takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * CLIENTS + 500
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def on_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it in the event loop that the gateway runs in."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def crowd(it: Streaming, events: int) -> asyncio.subprocess.Process:
    """A thousand clients in another process, all connected."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.crowd", str(it.port), str(CLIENTS), str(events)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"connected\n"
    return process


async def report_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What the crowd heard."""
    out, _ = await process.communicate()
    report: dict[str, Any] = json.loads(out)
    return report


def test_a_thousand_clients_hear_everything() -> None:
    """200 messages of three steps each: every client hears all 600 events once, and statistics; nobody is dropped."""

    async def main() -> None:
        async with streaming() as it:
            process = await crowd(it, MESSAGES * len(STATUSES))
            await it.listeners(CLIENTS)
            for seq in range(MESSAGES):
                it.tracker.tell([step_of(seq, status) for status in STATUSES])
                await asyncio.sleep(0.01)  # at 100 a second, as they come; nothing waits for it
            report = await report_of(process)

            every = MESSAGES * len(STATUSES)
            assert report["wrong"] == {}
            assert report["messages"] == report["different"] == [every, every]
            assert report["statistics"] >= 1
            assert report["done"] == CLIENTS
            await it.listeners(0)
            assert not it.hub.dropped

    on_uvloop(main)


def test_one_who_never_reads_holds_up_nobody() -> None:
    """It is dropped once too much waits for it; a thousand others hear all, and what waited was not kept for it."""
    texts = 4_000

    async def main() -> None:
        async with streaming() as it:
            process = await crowd(it, texts)
            with deaf(it, WEBSOCKET):
                await it.listeners(CLIENTS + 1)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                for first in range(0, texts, 100):
                    it.tracker.tell([step_of(seq, text="x" * 1000) for seq in range(first, first + 100)])
                    await asyncio.sleep(0.1)
                report = await report_of(process)
                await it.listeners(0)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

            assert report["wrong"] == {}
            assert report["different"] == [texts, texts]
            assert it.hub.dropped == {1013: 1}
            assert grown < 64 * 1024

    on_uvloop(main)

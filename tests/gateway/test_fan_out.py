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
from common.web.limits import Limits
from tests.gateway.streaming import Streaming, step_of, streaming
from tests.gateway.test_events import WEBSOCKET, deaf

CLIENTS = 1_000
MESSAGES = 200
LONGEST_S = 240
STATUSES = (Status.QUEUED, Status.SENDING, Status.SENT)


# A crowd that gets no CPU for a while has not stopped reading.
PATIENT: dict[str, Any] = {"limits": Limits(write_s=600.0), "stall_s": 600.0}


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
    """Runs it in the event loop that the gateway runs in; a timeout of pytest's own does not get through to that."""

    async def bounded() -> None:
        async with asyncio.timeout(LONGEST_S):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def crowd(it: Streaming, clients: int, events: int, portion: int) -> asyncio.subprocess.Process:
    """So many clients in another process, all connected. It tells of each portion of the events that all have heard."""
    counts = map(str, (it.port, clients, events, portion))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.crowd", *counts), stdout=asyncio.subprocess.PIPE
    )
    assert await line_of(process) == b"connected\n"
    return process


async def line_of(process: asyncio.subprocess.Process) -> bytes:
    """The next that the crowd says."""
    assert process.stdout is not None
    return await process.stdout.readline()


async def report_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What the crowd heard: its last words."""
    out, _ = await process.communicate()
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def test_a_thousand_clients_hear_everything() -> None:
    """200 messages of three steps each: every client hears all 600 events once, and statistics; nobody is dropped."""

    async def main() -> None:
        async with streaming(**PATIENT) as it:
            process = await crowd(it, CLIENTS, MESSAGES * len(STATUSES), MESSAGES * len(STATUSES))
            await it.listeners(CLIENTS)
            for seq in range(MESSAGES):
                it.tracker.publish([step_of(seq, status) for status in STATUSES])
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
    """It is dropped once too much waits for it; fifty others hear all, and what waited was not kept for it.

    No faster than the slowest of these hears: on a machine with other work they would be too slow, too.
    """
    clients, texts, portion = 50, 20_000, 400

    async def main() -> None:
        async with streaming(**PATIENT) as it:
            process = await crowd(it, clients, texts, portion)
            with deaf(it, WEBSOCKET):
                await it.listeners(clients + 1)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                for first in range(0, texts, portion):
                    beyond = first + portion
                    it.tracker.publish([step_of(seq, text="x" * 1000) for seq in range(first, beyond)])
                    assert await line_of(process) == f"heard {beyond}\n".encode()
                report = await report_of(process)
                await it.listeners(0)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

            assert report["wrong"] == {}
            assert report["different"] == [texts, texts]
            assert it.hub.dropped == {1013: 1}
            assert grown < 64 * 1024

    on_uvloop(main)

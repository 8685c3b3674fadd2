"""sender/providers/single.py: one send at a time, lifted to the bulk form."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.messages import Outcome
from sender.providers.port import OutgoingMessage, PermanentError, Result, TemporaryError
from sender.providers.single import BulkAdapter, Timing
from tests.providers import NUMBER, TEXT, Reports
from tests.waiting import eventually

SENT = Result(Outcome.SENT)


class Scripted:
    """A provider whose sends do what `script` does."""

    def __init__(self, script: Callable[[OutgoingMessage], Awaitable[Any]]) -> None:
        self.script = script
        self.seen: list[OutgoingMessage] = []
        self.closed = 0

    async def send(self, message: OutgoingMessage) -> Result:
        self.seen.append(message)
        result: Result = await self.script(message)
        return result

    async def close(self) -> None:
        self.closed += 1


async def reported(script: Callable[[OutgoingMessage], Awaitable[Any]], count: int = 1) -> Reports:
    """The reports of some sends through an adapter, which is closed afterwards."""
    adapter, reports = BulkAdapter(Scripted(script)), Reports([NUMBER] * count)
    adapter.start(reports.sends)
    await eventually(lambda: reports.complete)
    await adapter.close()
    return reports


async def test_a_message_carries_its_id_and_attempt() -> None:
    """The provider sees the message id, number, text and attempt."""

    async def accepts(_: OutgoingMessage) -> Result:
        return SENT

    provider, reports = Scripted(accepts), Reports([NUMBER] * 2, attempt=3, first_seq=7)
    adapter = BulkAdapter(provider)
    adapter.start(reports.sends)
    await eventually(lambda: reports.complete)
    await adapter.close()
    assert provider.seen == [OutgoingMessage(f"a-run.{seq}", NUMBER, TEXT, 3) for seq in (7, 8)]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (SENT, Result(Outcome.SENT, 0, False)),
        (Result(Outcome.FAILED, reason="blocked"), Result(Outcome.FAILED, 0, False)),
        (Result(Outcome.RETRY, retry_after_s=3), Result(Outcome.RETRY, 3, False)),
        (Result(Outcome.RETRY, retry_after_s=100_000), Result(Outcome.RETRY, 512, False)),
        (Result(Outcome.RETRY, retry_after_s=float("inf")), Result(Outcome.RETRY, 512, False)),
        (Result(Outcome.RETRY, retry_after_s=float("nan")), Result(Outcome.RETRY, 0, False)),
        (Result(Outcome.RETRY, retry_after_s=-3), Result(Outcome.RETRY, 0, False)),
        (Result(Outcome.FAILED, retry_after_s=3), Result(Outcome.FAILED, 0, False)),
        (Result(Outcome.RETRY, ambiguous=True), Result(Outcome.RETRY, 0, True)),
        (Result(Outcome.FAILED, ambiguous=True), Result(Outcome.FAILED, 0, True)),
        (Result(Outcome.SENT, ambiguous=True), Result(Outcome.SENT, 0, False)),
        (TemporaryError("busy", retry_after_s=2, ambiguous=True), Result(Outcome.RETRY, 2, True)),
        (PermanentError("blocked"), Result(Outcome.FAILED, 0, False)),
        (TimeoutError(), Result(Outcome.RETRY, 0, True)),
        (ConnectionResetError(), Result(Outcome.RETRY, 0, True)),
        (KeyError("a bug"), Result(Outcome.RETRY, 0, True)),
        (asyncio.CancelledError(), Result(Outcome.RETRY, 0, True)),
        (None, Result(Outcome.RETRY, 0, True)),
        (Result("sent"), Result(Outcome.RETRY, 0, True)),  # type: ignore[arg-type]  # a mistake of a provider
        (Result(Outcome.RETRY, "3"), Result(Outcome.RETRY, 0, True)),  # type: ignore[arg-type]
        (Result(Outcome.FAILED, reason=["blocked"]), Result(Outcome.FAILED)),  # type: ignore[arg-type]
        (Outcome.SENT, Result(Outcome.RETRY, 0, True)),
    ],
)
async def test_the_result_of_a_send(result: object, expected: Result) -> None:
    """Whatever `send` returns or raises is reported; an error that is not a SendError is retried, and ambiguous."""

    async def script(_: OutgoingMessage) -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    assert (await reported(script)).results == {0: expected}


async def test_a_send_that_is_no_coroutine_disturbs_nobody() -> None:
    """A `send` that raises before it is awaited is like one that raises later."""

    class Broken:
        def send(self, message: OutgoingMessage) -> Awaitable[Result]:
            raise ValueError("no coroutine")

        async def close(self) -> None:
            """Has nothing to close."""

    adapter, reports = BulkAdapter(Broken()), Reports([NUMBER] * 2)  # type: ignore[arg-type]  # what the test is about
    adapter.start(reports.sends)
    await eventually(lambda: reports.complete)
    await adapter.close()
    assert set(reports.results.values()) == {Result(Outcome.RETRY, ambiguous=True)}


async def test_each_send_is_measured() -> None:
    """Its time is that of its own send, in microseconds."""

    async def script(message: OutgoingMessage) -> Result:
        await asyncio.sleep(0.05 if message.id == "a-run.0" else 0)
        return SENT

    reports = await reported(script, 2)
    assert max(reports.times_us.values()) >= 49_000
    assert min(reports.times_us.values()) >= 0


async def test_sends_that_end_together_are_reported_together() -> None:
    """A report a send would cost the sender half as much again."""
    reports = Reports([NUMBER] * 1_000)

    async def accepts(_: OutgoingMessage) -> Result:
        return SENT

    adapter = BulkAdapter(Scripted(accepts), Timing(report_every_s=0.2))
    adapter.start(reports.sends)
    await eventually(lambda: reports.complete)
    await adapter.close()
    assert reports.calls < 100


async def test_close_cancels_what_is_in_flight() -> None:
    """Nothing is reported afterwards, the provider is closed once, and later sends are not begun."""

    async def never(_: OutgoingMessage) -> Result:
        await asyncio.Event().wait()
        return SENT

    provider, reports, later = Scripted(never), Reports([NUMBER] * 5), Reports([NUMBER] * 5, first_seq=5)
    adapter = BulkAdapter(provider)
    adapter.start(reports.sends)
    await eventually(lambda: len(provider.seen) == 5)
    await adapter.close()
    adapter.start(later.sends)
    await asyncio.sleep(0)
    assert (len(provider.seen), provider.closed, reports.results, later.results) == (5, 1, {}, {})


async def test_close_ends_though_a_send_ignores_it() -> None:
    """A provider that swallows the cancellation, or does not close, is left behind after a while."""
    released = asyncio.Event()

    class Stubborn:
        async def send(self, message: OutgoingMessage) -> Result:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return SENT

        async def close(self) -> None:
            await asyncio.Event().wait()

    adapter, reports = BulkAdapter(Stubborn(), Timing(close_s=0.05)), Reports([NUMBER] * 1)
    adapter.start(reports.sends)
    await asyncio.sleep(0)
    await adapter.close()
    tasks = list(adapter._tasks)
    released.set()
    await asyncio.gather(*tasks)
    assert reports.results == {}


# The log


async def test_failures_are_counted_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    """One line with each reason and how often it came; an error's reason is its kind."""
    results = (Result(Outcome.RETRY, reason="HTTP 503"), PermanentError("blocked"), TimeoutError(), SENT)

    async def script(message: OutgoingMessage) -> Result:
        result = results[int(message.id.rpartition(".")[2]) % len(results)]
        if isinstance(result, Exception):
            raise result
        return result

    await reported(script, 12)
    [record] = [record for record in caplog.records if record.msg == "sends_not_accepted"]
    assert record.__dict__["causes"] == {"HTTP 503": 3, "blocked": 3, "TimeoutError": 3}


async def test_an_unexpected_error_is_traced_once_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback names the line of the bug; the text of the error may quote the message, so it is left out."""
    caplog.set_level(logging.DEBUG)

    async def script(message: OutgoingMessage) -> Result:
        raise ValueError(f"can't encode {message.text} for {message.to}")

    await reported(script, 20)
    [record] = [record for record in caplog.records if record.msg == "send_raised"]
    assert record.__dict__["kind"] == "ValueError"
    assert "test_single.py" in record.__dict__["traceback"]
    for record in caplog.records:
        assert TEXT not in str(record.__dict__)
        assert NUMBER not in str(record.__dict__)


async def test_errors_of_the_network_have_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """They are expected, and counted."""

    async def script(_: OutgoingMessage) -> Result:
        raise ConnectionResetError

    await reported(script, 3)
    assert [record.msg for record in caplog.records if record.levelno > logging.INFO] == [
        "sends_not_accepted"
    ]

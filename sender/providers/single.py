"""Turns a provider that sends one message at a time into the bulk form that the sender uses."""

import asyncio
import logging
import time
from dataclasses import dataclass

import numpy as np

from common.messages import Message, Outcome
from sender.providers.bulk import Sends
from sender.providers.failures import FailureLog
from sender.providers.port import OutgoingMessage, Provider, Result, SendError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """The timing of a bulk adapter, in seconds.

    Attributes:
        report_every_s: Sends that end within this time are reported together. One report a send costs the sender half
            as much again.
        log_every_s: Interval of the log of sends that were not accepted.
        close_s: How long `close` waits for the cancelled sends, and then for the provider to close.
        longest_retry_after_s: A longer wait is cut: there is no retry queue for it.
    """

    report_every_s: float = 0.005
    log_every_s: float = 5.0
    close_s: float = 1.0
    longest_retry_after_s: float = 512.0


class BulkAdapter:
    """Runs each send as a task of its own, and measures it.

    All sends that it is given run at once: the sender never starts more than it has slots. A send that raises or
    returns nonsense disturbs no other and is reported like any other, so that its slot is free again.
    """

    reads_messages = True

    def __init__(self, provider: Provider, timing: Timing | None = None) -> None:
        self._provider = provider
        self._timing = timing or Timing()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[Sends, list[int]] = {}
        self._report_timer: asyncio.TimerHandle | None = None
        self._failures = FailureLog(self._timing.log_every_s)
        self._closed = False

    def start(self, sends: Sends) -> None:
        if self._closed:
            return
        assert sends.messages is not None
        count = sends.seqs.size
        sends.retry_after_s = np.zeros(count, np.float32)
        sends.ambiguous = np.zeros(count, np.bool_)
        for position, message in enumerate(sends.messages):
            task = asyncio.create_task(self._run(sends, position, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._report_timer is not None:
            self._report_timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timing.close_s)
        try:
            async with asyncio.timeout(self._timing.close_s):
                await self._provider.close()
        except TimeoutError:
            log.warning("provider_not_closed", extra={"waited_s": self._timing.close_s})
        self._failures.flush()

    async def _run(self, sends: Sends, position: int, message: Message) -> None:
        """Runs one send and records its result."""
        outgoing = OutgoingMessage.of(message, sends.run, sends.attempt)
        began_s = time.perf_counter()
        result = await self._result(outgoing)
        took_s = time.perf_counter() - began_s
        if self._closed:
            return
        sends.outcomes[position] = result.outcome
        sends.times_us[position] = round(1e6 * took_s)
        if result.outcome is not Outcome.SENT:
            self._record_failure(sends, position, result)
        self._report_soon(sends, position)

    async def _result(self, message: OutgoingMessage) -> Result:
        """The result of a send, or one that stands for the error it raised."""
        try:
            return self._checked(await self._send(message))
        except asyncio.CancelledError as error:
            if self._closed:
                raise
            return self._unknown(error)
        except Exception as error:  # noqa: BLE001  # any error of a provider must free its slot
            return self._unknown(error)

    async def _send(self, message: OutgoingMessage) -> Result:
        try:
            return await self._provider.send(message)
        except SendError as error:
            return error.result

    def _checked(self, result: object) -> Result:
        """The result with values in their limits. Raises an error if it is not a result."""
        if not isinstance(result, Result):
            raise TypeError(f"send returned {type(result).__name__}, not a Result")
        if result.outcome is Outcome.SENT:
            return result
        outcome, wait_s = Outcome(result.outcome), 0.0
        if outcome is Outcome.RETRY and result.retry_after_s > 0:
            wait_s = min(float(result.retry_after_s), self._timing.longest_retry_after_s)
        reason = str(result.reason or outcome.name.lower())
        return Result(
            outcome=outcome,
            retry_after_s=wait_s,
            ambiguous=bool(result.ambiguous),
            reason=reason,
        )

    def _unknown(self, error: BaseException) -> Result:
        """The result of a send of which nobody knows how far it went."""
        self._failures.trace(error)
        return Result(Outcome.RETRY, ambiguous=True, reason=type(error).__name__)

    def _record_failure(self, sends: Sends, position: int, result: Result) -> None:
        assert sends.retry_after_s is not None
        assert sends.ambiguous is not None
        sends.ambiguous[position] = result.ambiguous
        sends.retry_after_s[position] = result.retry_after_s
        self._failures.count(result.reason)

    def _report_soon(self, sends: Sends, position: int) -> None:
        self._ended.setdefault(sends, []).append(position)
        if self._report_timer is None:
            loop = asyncio.get_running_loop()
            self._report_timer = loop.call_later(self._timing.report_every_s, self._report)

    def _report(self) -> None:
        """Reports the sends that have ended since the last time, each group as a part of its own."""
        self._report_timer = None
        ended, self._ended = self._ended, {}
        for sends, positions in ended.items():
            part = sends.part(np.array(positions, np.intp))
            part.finish(0, len(positions))

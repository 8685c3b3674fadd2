"""The HTTP provider: posts each message to a service, and reads its answer as an outcome (docs/providers.md)."""

import asyncio
import email.utils
import logging
import math
import resource
import time
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp
import msgspec
import numpy as np
from yarl import URL

from common.errors import UsageError
from common.messages import Message, Outcome
from sender.providers.bulk import Sends

log = logging.getLogger(__name__)

# The longest that a sender waits before another attempt; what is asked for beyond that is cut.
LONGEST_RETRY_AFTER_S = 512.0
# What went wrong is logged together, no more often than this.
LOG_EVERY_S = 5.0
# Sends that end close together are reported together: one at a time they cost the sender half as much again.
REPORT_EVERY_S = 0.005
# Open files beside the connections: servers, logs, what is closing.
SPARE_FILES = 100
MOST_FILES = 1 << 20
# These say that the request may do better later, as all of 500 to 599 do.
TRY_AGAIN = frozenset({408, 429})
# What goes wrong with requests that are not answered. Anything else is a bug of ours, and is logged whole.
UNANSWERED = (aiohttp.ClientError, OSError, TimeoutError)


class Sms(msgspec.Struct, frozen=True, gc=False):
    """The body of a request."""

    id: str
    to: str
    text: str
    attempt: int


class Progress:
    """How far a request has come: `written` from just before its first byte goes out."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written = False


async def _mark_written(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.written = True


class HttpProvider:
    """Posts messages as JSON, one request each, over pooled connections.

    `slots` is how many sends will be in flight at most; `timeout_s` what one may take, from the connection to the end
    of the answer. Raises UsageError if the system allows fewer connections than slots.
    """

    reads_messages = True

    def __init__(self, url: str, slots: int, timeout_s: float) -> None:
        if slots + SPARE_FILES > (limit := raise_file_limit()):
            raise UsageError(
                f"{slots} sends in flight need as many connections, and this system allows {limit} open files: "
                "lower SENDER_CONCURRENCY, or raise the limit (ulimit -n)"
            )
        self._url = URL(url)
        try:
            (self._url.host or "").encode("idna")
        except UnicodeError:
            raise UsageError("PROVIDER_URL: its host is no name of a host") from None
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._encode = msgspec.json.Encoder().encode
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[Sends, list[int]] = {}
        self._report_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._troubles: Counter[str] = Counter()
        self._log_timer: asyncio.TimerHandle | None = None

    def start(self, sends: Sends) -> None:
        if self._closed:
            return
        if self._session is None:
            self._session = _open_session(self._timeout_s)
        assert sends.messages is not None
        sends.retry_after_s = np.zeros(sends.seqs.size, np.float32)
        sends.ambiguous = np.zeros(sends.seqs.size, np.bool_)
        for k, message in enumerate(sends.messages):
            task = asyncio.create_task(self._send(self._session, sends, k, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self._closed = True
        if self._report_timer is not None:
            self._report_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self._log_troubles()

    async def _send(self, session: aiohttp.ClientSession, sends: Sends, k: int, message: Message) -> None:
        assert sends.retry_after_s is not None
        assert sends.ambiguous is not None
        key = f"{sends.run}.{message.seq}"
        body = self._encode(Sms(key, message.to, message.text, sends.attempt))
        progress = Progress()
        began_s = time.perf_counter()
        try:
            async with session.post(
                self._url,
                data=body,
                headers={"Idempotency-Key": key},
                allow_redirects=False,
                trace_request_ctx=progress,
            ) as answer:
                outcome = _outcome(answer.status)
                if outcome is Outcome.RETRY:
                    sends.retry_after_s[k] = retry_after_s(answer.headers.get("Retry-After", ""))
                if outcome is not Outcome.SENT:
                    self._note(f"HTTP {answer.status}")
                await _skip_rest(answer)
        except Exception as error:  # a send that did not end would keep its slot for good
            if not isinstance(error, UNANSWERED):
                log.exception("send_broke")
            outcome = Outcome.RETRY
            sends.ambiguous[k] = progress.written
            self._note(type(error).__name__)
        sends.outcomes[k] = outcome
        sends.times_us[k] = round(1e6 * (time.perf_counter() - began_s))
        self._ended.setdefault(sends, []).append(k)
        if self._report_timer is None and not self._closed:
            self._report_timer = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def _report(self) -> None:
        """Reports what has ended since the last time, each group of sends as a part of its own."""
        self._report_timer = None
        ended, self._ended = self._ended, {}
        for sends, positions in ended.items():
            sends.part(np.array(positions, np.intp)).finish(0, len(positions))

    def _note(self, trouble: str) -> None:
        self._troubles[trouble] += 1
        if self._log_timer is None:
            self._log_timer = asyncio.get_running_loop().call_later(LOG_EVERY_S, self._log_troubles)

    def _log_troubles(self) -> None:
        """Says how often what went wrong, and nothing of the messages, the address or the answers."""
        if self._log_timer is not None:
            self._log_timer.cancel()
            self._log_timer = None
        if self._troubles:
            log.warning("sends_not_accepted", extra={"causes": dict(self._troubles.most_common())})
            self._troubles.clear()


def _open_session(timeout_s: float) -> aiohttp.ClientSession:
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_mark_written)
    return aiohttp.ClientSession(
        # No limit but the sender's slots: in a full pool an urgent send would wait for bulk ones.
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=math.inf),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "smsim"},
        skip_auto_headers=["Accept-Encoding"],
        trace_configs=[tracing],
    )


async def _skip_rest(answer: aiohttp.ClientResponse) -> None:
    """Takes the body off the connection, so that it can serve again. What was answered stands, come it or not."""
    try:
        while not answer.content.is_eof():
            await answer.content.readany()
    except UNANSWERED:
        answer.close()


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome.SENT
    if status in TRY_AGAIN or 500 <= status < 600:
        return Outcome.RETRY
    return Outcome.FAILED


def retry_after_s(header: str) -> float:
    """The seconds that a Retry-After header asks for, as a number or a date; 0 if it is neither."""
    try:
        wait_s = float(header) if header.strip().isdigit() else _seconds_until(header)
    except (ValueError, OverflowError):
        return 0.0
    return min(LONGEST_RETRY_AFTER_S, max(0.0, wait_s))


def _seconds_until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    if when.tzinfo is None:  # "-0000", or none at all: HTTP dates are in UTC
        when = when.replace(tzinfo=UTC)
    return (when - datetime.now(UTC)).total_seconds()


def raise_file_limit() -> int:
    """Lets this process open as many files as the system allows it to; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MOST_FILES:
        return MOST_FILES
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # some systems have a lower limit than the one they tell
        return soft
    return wanted

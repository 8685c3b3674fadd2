"""sender/providers/http.py against a server that answers as each test says."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import numpy as np
import pytest

from common.errors import UsageError
from common.messages import Message, Outcome
from common.settings import Settings
from sender.providers import http
from sender.providers.bulk import Sends
from sender.providers.factory import provider_of
from sender.providers.http import HttpProvider, retry_after_s
from sender.providers.simulated import SimulatedProvider
from tests.waiting import eventually

NUMBER = "+358401234567"
TEXT = "Water is rising, leave now"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Request:
    """A request as it came: first line, headers by their names in lower case, body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.line, *fields = head.decode().rstrip().split("\r\n")
        self.headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        self.body = json.loads(body)

    @property
    def seq(self) -> int:
        return int(self.body["id"].rpartition(".")[2])


class Service:
    """Answers each request with the bytes that `reply` gives, or never if `silent`; `closes` the connection then.

    With `heads_read`, each body waits for a release of it.
    """

    def __init__(self) -> None:
        self.reply: Callable[[Request], bytes] = lambda _: OK
        self.silent = False
        self.closes = False
        self.heads_read: asyncio.Semaphore | None = None
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(f.split(b":")[1])
                    for f in head.lower().split(b"\r\n")
                    if f.startswith(b"content-length")
                )
                request = Request(head, await reader.readexactly(length))
                self.requests.append(request)
                if self.silent:
                    await reader.read()  # until the client gives up
                    return
                head, end, rest = self.reply(request).partition(b"\r\n\r\n")
                writer.write(head + end)
                if self.heads_read is not None:
                    await self.heads_read.acquire()
                writer.write(rest)
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


class Reports:
    """Sends to be started, and what a provider reported of them, by seq."""

    def __init__(self, count: int, attempt: int = 1, first_seq: int = 0) -> None:
        self.ended: dict[int, tuple[Outcome, int, float, bool]] = {}
        seqs = np.arange(first_seq, first_seq + count, dtype=np.int64)
        self.sends = Sends(
            "a-run",
            attempt,
            seqs,
            np.zeros(count, np.int32),
            [],
            self._finished,
            messages=[Message(seq, NUMBER, TEXT) for seq in seqs.tolist()],
        )

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        assert first < beyond
        assert sends.retry_after_s is not None
        assert sends.ambiguous is not None
        for k in range(first, beyond):
            seq = int(sends.seqs[k])
            assert seq not in self.ended, "reported twice"
            self.ended[seq] = (
                Outcome(sends.outcomes[k]),
                int(sends.times_us[k]),
                float(sends.retry_after_s[k]),
                bool(sends.ambiguous[k]),
            )

    @property
    def complete(self) -> bool:
        return len(self.ended) == self.sends.seqs.size

    @property
    def outcomes(self) -> list[Outcome]:
        return [self.ended[seq][0] for seq in sorted(self.ended)]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/sms"
    yield service
    server.close()
    await server.wait_closed()


async def sent_through(url: str, count: int = 1, timeout_s: float = 60) -> Reports:
    """What comes of some sends through a provider of their own, which is closed afterwards."""
    provider, reports = HttpProvider(url, 10, timeout_s), Reports(count)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    await provider.close()
    return reports


async def timed_out(url: str, so: Callable[[Reports], bool]) -> Reports:
    """What comes of a send that times out, and not before it is `so`: a slow machine gets more time."""
    for timeout_s in (0.2, 2, 20):
        reports = await sent_through(url, timeout_s=timeout_s)
        if so(reports):
            return reports
    raise AssertionError("it never came so far")


def status(code: int, *headers: str) -> bytes:
    fields = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\n{fields}\r\n".encode()


async def test_the_request(service: Service) -> None:
    """One POST a message: its id, number, text and attempt as JSON, and the id as the idempotency key."""
    provider, reports = HttpProvider(service.url, 10, 60), Reports(2, attempt=3, first_seq=7)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    await provider.close()
    for request in service.requests:
        key = f"a-run.{request.seq}"
        assert request.line == "POST /sms HTTP/1.1"
        assert request.headers["idempotency-key"] == key
        assert request.headers["content-type"] == "application/json"
        assert request.body == {"id": key, "to": NUMBER, "text": TEXT, "attempt": 3}
    assert sorted(request.seq for request in service.requests) == [7, 8]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((code, Outcome.SENT) for code in (200, 201, 202, 204, 299)),
        *((code, Outcome.RETRY) for code in (408, 429, 500, 502, 503, 504, 599)),
        *((code, Outcome.FAILED) for code in (300, 304, 400, 401, 403, 404, 409, 422, 499, 600)),
    ],
)
async def test_every_class_of_status(service: Service, code: int, outcome: Outcome) -> None:
    """What was answered is known: sent, to be retried or failed for good, and never ambiguous."""
    service.reply = lambda _: status(code)
    reports = await sent_through(service.url)
    (found, time_us, wait_s, ambiguous) = reports.ended[0]
    assert (found, wait_s, ambiguous) == (outcome, 0, False)
    assert time_us > 0


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(service: Service, code: int) -> None:
    """Following one could post an SMS to somebody else; it fails for good, and nothing more is asked."""
    service.reply = lambda _: status(code, f"Location: {service.url}/elsewhere")
    reports = await sent_through(service.url)
    assert reports.outcomes == [Outcome.FAILED]
    assert len(service.requests) == 1


@pytest.mark.parametrize(("asked", "waits"), [("7", 7), ("0", 0), ("100000", 512), ("soon", 0)])
@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_in_seconds(service: Service, code: int, asked: str, waits: float) -> None:
    """The wait that a service asks for is passed on, cut at the longest there is; what is no wait is ignored."""
    service.reply = lambda _: status(code, f"Retry-After: {asked}")
    reports = await sent_through(service.url)
    assert reports.ended[0][0] is Outcome.RETRY
    assert reports.ended[0][2] == waits


async def test_retry_after_as_a_date(service: Service) -> None:
    """A date counts from now; one that is over asks for nothing."""
    soon, over = (datetime.now(UTC) + timedelta(seconds=s) for s in (300, -300))
    dates = [format_datetime(date, usegmt=True) for date in (soon, over)]
    service.reply = lambda request: status(429, f"Retry-After: {dates[request.seq]}")
    reports = await sent_through(service.url, 2)
    assert 100 < reports.ended[0][2] <= 300
    assert reports.ended[1][2] == 0


@pytest.mark.parametrize(
    "header",
    ["", "-5", "1.5", "²", "Thu, 99 Foo 2026 99:99:99 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "\x00"],
)
def test_bad_retry_after_asks_for_nothing_or_the_most(header: str) -> None:
    """Whatever a service puts there, it is no error, and no wait longer than the longest."""
    assert retry_after_s(header) in (0, 512)


async def test_an_answer_to_another_status_asks_for_no_wait(service: Service) -> None:
    """Only what is tried again can wait."""
    service.reply = lambda _: status(422, "Retry-After: 9")
    reports = await sent_through(service.url)
    assert reports.ended[0][2] == 0


async def test_a_timeout_after_the_request_was_written_is_ambiguous(service: Service) -> None:
    """It may have been sent: tried again, and counted."""
    service.silent = True
    reports = await timed_out(service.url, lambda _: len(service.requests) == 1)
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], True)


async def test_a_timeout_before_the_request_was_written_is_not(service: Service) -> None:
    """The other side takes the connection and is silent in the TLS handshake: nothing was written yet."""
    reports = await timed_out(service.url.replace("http:", "https:"), lambda _: service.connections == 1)
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], False)


async def test_a_refused_connection_is_not_ambiguous() -> None:
    """Nobody listens, so nothing went out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can come to answer there
        reports = await sent_through(f"http://127.0.0.1:{taken.getsockname()[1]}/sms")
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], False)


async def test_an_unknown_host_is_not_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` never resolves (RFC 2606); how long a name server takes to say so is not at stake here."""

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        assert host == "smsim.invalid"
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reports = await sent_through("http://smsim.invalid/sms")
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], False)


@pytest.mark.parametrize("answered", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_connection_lost_after_the_write_is_ambiguous(service: Service, answered: bytes) -> None:
    """Closed without an answer, or before the answer's head was whole: who knows what 200 would have become."""
    service.reply, service.closes = lambda _: answered, True
    reports = await sent_through(service.url)
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], True)


async def test_a_pooled_connection_that_is_closed_on_the_next_request_is_ambiguous(service: Service) -> None:
    """The service may have read that request before it closed, so it is not just posted again on another one."""
    provider = HttpProvider(service.url, 10, 60)
    first, second = Reports(1), Reports(1, first_seq=1)
    provider.start(first.sends)
    await eventually(lambda: first.complete)
    service.reply, service.closes = lambda _: b"", True
    provider.start(second.sends)
    await eventually(lambda: second.complete)
    await provider.close()
    assert (second.outcomes, second.ended[1][3]) == ([Outcome.RETRY], True)
    assert (len(service.requests), service.connections) == (2, 1)


@pytest.mark.parametrize("code", [200, 422, 503])
async def test_an_answer_stands_though_its_body_is_lost(service: Service, code: int) -> None:
    """The status is what counts; a body cut short takes nothing back."""
    service.reply = lambda _: f"HTTP/1.1 {code} Whatever\r\nContent-Length: 1000\r\n\r\n{{".encode()
    service.closes = True
    reports = await sent_through(service.url)
    expected = {200: Outcome.SENT, 422: Outcome.FAILED, 503: Outcome.RETRY}[code]
    assert (reports.outcomes, reports.ended[0][3]) == ([expected], False)


async def test_an_answer_stands_though_its_body_never_ends(service: Service) -> None:
    """The timeout ends the wait for the body; the message was accepted."""
    service.reply = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"
    reports = await timed_out(service.url, lambda reports: reports.outcomes == [Outcome.SENT])
    assert not reports.ended[0][3]


async def test_what_is_no_http_is_ambiguous(service: Service) -> None:
    """Something answered, and nobody knows what it made of the message."""
    service.reply = lambda _: b"220 smtp.example.com ESMTP\r\n\r\n"
    reports = await sent_through(service.url)
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], True)


async def test_connections_are_used_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round after round over the same connections, though the body comes when the head has been read."""
    service.heads_read = heads_read = asyncio.Semaphore(0)
    skip_rest = http._skip_rest

    async def tell_and_skip_rest(answer: aiohttp.ClientResponse) -> None:
        heads_read.release()
        await skip_rest(answer)

    monkeypatch.setattr(http, "_skip_rest", tell_and_skip_rest)
    provider = HttpProvider(service.url, 10, 60)
    for round_ in range(4):
        reports = Reports(5, first_seq=10 * round_)
        provider.start(reports.sends)
        await eventually(lambda reports=reports: reports.complete)  # type: ignore[misc]
    await provider.close()
    assert service.connections == 5


async def test_more_sends_than_slots_do_not_wait_for_one_another(service: Service) -> None:
    """Urgent slots come on top of the others: the pool must not hold an urgent send behind bulk ones."""
    service.silent = True
    provider, reports = HttpProvider(service.url, 10, 60), Reports(30)
    provider.start(reports.sends)
    await eventually(lambda: len(service.requests) == 30)
    await provider.close()


async def test_many_sends_are_each_reported_once(service: Service) -> None:
    """Whatever the order in which answers come, each message gets its own."""
    codes = [200, 503, 422]
    service.reply = lambda request: status(codes[request.seq % 3])
    reports = await sent_through(service.url, 300)
    assert reports.outcomes == 100 * [Outcome.SENT, Outcome.RETRY, Outcome.FAILED]


async def test_close_gives_up_what_is_in_flight(service: Service) -> None:
    """Connections are closed, nothing is reported any more, and what is started later is not sent."""
    service.silent = True
    provider, reports = HttpProvider(service.url, 10, 600), Reports(5)
    provider.start(reports.sends)
    await eventually(lambda: len(service.requests) == 5)
    await provider.close()
    provider.start(Reports(5, first_seq=5).sends)
    await eventually(lambda: service.open == 0)
    assert (len(service.requests), reports.ended) == (5, {})


async def test_what_went_wrong_is_logged_without_numbers_texts_or_addresses(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line with the causes and how often each came, even where the service echoes the message."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(http, "LOG_EVERY_S", 600.0)

    def reply(request: Request) -> bytes:
        echo = json.dumps(request.body).encode()
        return b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\n\r\n%b" % (
            (200, 500, 401)[request.seq % 3], NUMBER.encode(), len(echo), echo
        )  # fmt: skip

    service.reply = reply
    provider, reports = HttpProvider(service.url.replace("//", "//me:secret@"), 10, 60), Reports(9)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    service.closes, service.reply = True, lambda _: TEXT.encode() + b"\r\n\r\n"
    garbled = Reports(1, first_seq=9)
    provider.start(garbled.sends)
    await eventually(lambda: garbled.complete)
    await provider.close()
    [line] = [record for record in caplog.records if record.msg == "sends_not_accepted"]
    causes: dict[str, int] = line.__dict__["causes"]
    assert causes["HTTP 500"] == causes["HTTP 401"] == 3
    assert sum(causes.values()) == 7
    for record in caplog.records:
        said = f"{record.getMessage()} {record.__dict__} {record.exc_text}"
        for secret in (NUMBER, TEXT, "secret", "127.0.0.1"):
            assert secret not in said or record.name == "asyncio", said


async def test_a_user_and_password_in_the_address_are_sent(service: Service) -> None:
    """As HTTP's basic authentication, and not as part of the address."""
    await sent_through(service.url.replace("//", "//me:secret@"))
    [request] = service.requests
    assert request.headers["authorization"] == "Basic bWU6c2VjcmV0"
    assert request.line == "POST /sms HTTP/1.1"


async def test_more_slots_than_open_files_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each send in flight needs a connection; without this check some would fail for reasons of our own."""
    monkeypatch.setattr(http, "raise_file_limit", lambda: 1024)
    with pytest.raises(UsageError, match=r"^1000 sends .* allows 1024 open files: lower SENDER_CONCURRENCY"):
        HttpProvider("http://localhost/", 1000, 1)


async def test_urgent_slots_need_connections_too(
    bare_environment: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come on top of SENDER_CONCURRENCY: an urgent message must not fail for want of an open file."""
    settings = Settings(provider="http", provider_url="http://localhost/")
    monkeypatch.setattr(http, "raise_file_limit", lambda: 1100 + http.SPARE_FILES)
    await provider_of(settings, 1000).close()
    with pytest.raises(UsageError, match=r"^1111 sends .* allows 1200 open files"):
        provider_of(settings, 1010)


@pytest.mark.parametrize("host", ["a" * 70 + ".com", "a..b"])
async def test_a_host_that_is_no_name_is_one_clear_line(bare_environment: object, host: str) -> None:
    """Nothing could ever be sent there: it is refused before the sender takes anything."""
    settings = Settings(provider="http", provider_url=f"http://{host}/sms")
    with pytest.raises(UsageError, match=r"^PROVIDER_URL: its host is no name of a host$"):
        provider_of(settings, 10)


async def test_a_send_that_breaks_ends_all_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in it, its slot is free again and its message tried again; the bug is logged whole."""

    def breaks(_: int) -> Outcome:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(http, "_outcome", breaks)
    reports = await sent_through(service.url)
    assert (reports.outcomes, reports.ended[0][3]) == ([Outcome.RETRY], True)
    [record] = [record for record in caplog.records if record.msg == "send_broke"]
    assert "a bug of ours" in str(record.exc_info)


async def test_the_factory_builds_what_the_settings_say(bare_environment: object, service: Service) -> None:
    """PROVIDER=http posts to PROVIDER_URL within PROVIDER_TIMEOUT; the default simulates."""
    service.silent = True
    for timeout_s in (0.2, 2, 20):  # a slow machine gets more time
        settings = Settings(provider="http", provider_url=service.url, provider_timeout=timeout_s)
        provider, reports = provider_of(settings, 10), Reports(1)
        provider.start(reports.sends)
        await eventually(lambda reports=reports: reports.complete)  # type: ignore[misc]
        await provider.close()
        if service.requests:
            break
    assert len(service.requests) == 1
    assert isinstance(provider_of(Settings(), 10), SimulatedProvider)

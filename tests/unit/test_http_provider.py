"""sender/providers/http.py against a server that answers as each test says."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from common.errors import UsageError
from common.messages import Outcome
from common.settings import Settings
from sender.providers.http import HttpProvider, create, require_connections
from sender.providers.port import OutgoingMessage, Result, SendError
from sender.providers.responses import retry_after_s
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
    """Answers each request with the bytes that `reply` gives, or never if `silent`; then closes if `closes`."""

    def __init__(self) -> None:
        self.reply: Callable[[Request], bytes] = lambda _: OK
        self.silent = False
        self.closes = False
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                request = await _read_request(reader)
                self.requests.append(request)
                if self.silent:
                    await reader.read()  # until the client gives up
                    return
                head, end, rest = self.reply(request).partition(b"\r\n\r\n")
                writer.write(head + end)
                await writer.drain()
                await asyncio.sleep(0)  # the body comes as a packet of its own
                writer.write(rest)
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (f for f in head.lower().split(b"\r\n") if f.startswith(b"content-length"))
    return Request(head, await reader.readexactly(int(length.split(b":")[1])))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/sms"
    yield service
    server.close()
    await server.wait_closed()


def message(seq: int = 0, attempt: int = 1) -> OutgoingMessage:
    return OutgoingMessage(f"a-run.{seq}", NUMBER, TEXT, attempt)


async def result_of(send: Any) -> Result:
    """The result of a send, whether it is returned or raised."""
    try:
        result: Result = await send
    except SendError as error:
        return error.result
    return result


async def sent_to(url: str, timeout_s: float = 60) -> Result:
    """The result of one send through a provider of its own, which is closed afterwards."""
    provider = HttpProvider(url, timeout_s)
    try:
        return await result_of(provider.send(message()))
    finally:
        await provider.close()


async def timed_out(url: str, far_enough: Callable[[Result], bool]) -> Result:
    """The result of a send that times out, and not before it is `far_enough`: a slow machine gets more time."""
    for timeout_s in (0.2, 2, 20):
        result = await sent_to(url, timeout_s)
        if far_enough(result):
            return result
    raise AssertionError("it never came far enough")


def status(code: int, *headers: str) -> bytes:
    fields = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\n{fields}\r\n".encode()


# The request


async def test_the_request(service: Service) -> None:
    """One POST a message: its id, number, text and attempt as JSON, and the id as the idempotency key."""
    provider = HttpProvider(service.url, 60)
    await provider.send(message(7, attempt=3))
    await provider.close()
    [request] = service.requests
    assert request.line == "POST /sms HTTP/1.1"
    assert request.headers["idempotency-key"] == "a-run.7"
    assert request.headers["content-type"] == "application/json"
    assert request.body == {"id": "a-run.7", "to": NUMBER, "text": TEXT, "attempt": 3}


async def test_a_user_and_password_in_the_address_are_sent(service: Service) -> None:
    """As HTTP's basic authentication, and not as part of the address."""
    await sent_to(service.url.replace("//", "//me:secret@"))
    [request] = service.requests
    assert request.headers["authorization"] == "Basic bWU6c2VjcmV0"
    assert request.line == "POST /sms HTTP/1.1"


async def test_connections_are_used_again(service: Service) -> None:
    """Round after round over the same connections, though each response comes in two packets."""
    provider = HttpProvider(service.url, 60)
    for first in range(0, 40, 10):
        await asyncio.gather(*(provider.send(message(first + k)) for k in range(5)))
    await provider.close()
    assert (len(service.requests), service.connections) == (20, 5)


async def test_there_is_a_connection_for_each_send_in_flight(service: Service) -> None:
    """The sender's slots are the only limit: the pool must not hold an urgent send behind bulk ones."""
    service.silent = True
    provider = HttpProvider(service.url, 60)
    sends = [asyncio.create_task(provider.send(message(seq))) for seq in range(300)]
    await eventually(lambda: len(service.requests) == 300)
    for send in sends:
        send.cancel()
    await asyncio.wait(sends)
    await provider.close()
    await eventually(lambda: service.open == 0)


# The response


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((code, Outcome.SENT) for code in (200, 201, 202, 204, 299)),
        *((code, Outcome.RETRY) for code in (408, 429, 500, 502, 503, 504, 599)),
        *((code, Outcome.FAILED) for code in (300, 304, 400, 401, 403, 404, 409, 422, 499, 600)),
    ],
)
async def test_every_class_of_status(service: Service, code: int, outcome: Outcome) -> None:
    """A response is never ambiguous: the message is sent, to be retried, or failed."""
    service.reply = lambda _: status(code)
    reason = "" if outcome is Outcome.SENT else f"HTTP {code}"
    assert await sent_to(service.url) == Result(outcome, reason=reason)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(service: Service, code: int) -> None:
    """Following one could post an SMS to somebody else: the message fails, and there is no second request."""
    service.reply = lambda _: status(code, f"Location: {service.url}/elsewhere")
    assert (await sent_to(service.url)).outcome is Outcome.FAILED
    assert len(service.requests) == 1


@pytest.mark.parametrize(("header", "wait_s"), [("7", 7), ("0", 0), ("100000", 100_000), ("soon", 0)])
@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_in_seconds(service: Service, code: int, header: str, wait_s: float) -> None:
    """The wait that a service asks for is passed on; an invalid one is ignored."""
    service.reply = lambda _: status(code, f"Retry-After: {header}")
    result = await sent_to(service.url)
    assert (result.outcome, result.retry_after_s) == (Outcome.RETRY, wait_s)


async def test_retry_after_with_another_status_is_ignored(service: Service) -> None:
    """Only a message that is tried again can wait."""
    service.reply = lambda _: status(422, "Retry-After: 9")
    assert (await sent_to(service.url)).retry_after_s == 0


def test_retry_after_as_a_date() -> None:
    """A date counts from now; one in the past asks for no wait."""
    soon, over = (datetime.now(UTC) + timedelta(seconds=s) for s in (300, -300))
    assert 100 < retry_after_s(format_datetime(soon, usegmt=True)) <= 300
    assert retry_after_s(format_datetime(over, usegmt=True)) == 0


@pytest.mark.parametrize(
    "header",
    ["", "-5", "1.5", "²", "Thu, 99 Foo 2026 99:99:99 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "\x00"],
)
def test_an_invalid_retry_after_is_no_error(header: str) -> None:
    """Any text there is a wait of at least 0."""
    assert retry_after_s(header) >= 0


@pytest.mark.parametrize("code", [200, 422, 503])
async def test_the_status_counts_though_the_body_is_lost(service: Service, code: int) -> None:
    """A body cut short does not change the result."""
    service.reply = lambda _: f"HTTP/1.1 {code} Whatever\r\nContent-Length: 1000\r\n\r\n{{".encode()
    service.closes = True
    result = await sent_to(service.url)
    expected = {200: Outcome.SENT, 422: Outcome.FAILED, 503: Outcome.RETRY}[code]
    assert (result.outcome, result.ambiguous) == (expected, False)


async def test_the_status_counts_though_the_body_never_ends(service: Service) -> None:
    """The timeout ends the wait for the body; the message was accepted."""
    service.reply = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"
    result = await timed_out(service.url, lambda result: result.outcome is Outcome.SENT)
    assert not result.ambiguous


# No response


async def test_a_timeout_after_the_request_was_written_is_ambiguous(service: Service) -> None:
    """The message may have been sent: it is tried again, and counted."""
    service.silent = True
    result = await timed_out(service.url, lambda _: len(service.requests) == 1)
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, True)


async def test_a_timeout_before_the_request_was_written_is_not(service: Service) -> None:
    """The server takes the connection and is silent in the TLS handshake: nothing was written yet."""
    result = await timed_out(service.url.replace("http:", "https:"), lambda _: service.connections == 1)
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, False)


async def test_a_refused_connection_is_not_ambiguous() -> None:
    """No server listens, so nothing was sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no other server can get this port
        result = await sent_to(f"http://127.0.0.1:{taken.getsockname()[1]}/sms")
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, False)


async def test_an_unknown_host_is_not_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` never resolves (RFC 2606); how long a name server takes to say so is not tested."""

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        assert host == "smsim.invalid"
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    result = await sent_to("http://smsim.invalid/sms")
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, False)


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_connection_lost_after_the_write_is_ambiguous(service: Service, received: bytes) -> None:
    """Closed without a response, or before its head was complete: the message may have been sent."""
    service.reply, service.closes = lambda _: received, True
    result = await sent_to(service.url)
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, True)


async def test_a_pooled_connection_that_is_closed_on_the_next_request_is_ambiguous(service: Service) -> None:
    """The service may have read that request before it closed, so it is not posted again on another connection."""
    provider = HttpProvider(service.url, 60)
    await provider.send(message(0))
    service.reply, service.closes = lambda _: b"", True
    result = await result_of(provider.send(message(1)))
    await provider.close()
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, True)
    assert (len(service.requests), service.connections) == (2, 1)


async def test_a_response_that_is_not_http_is_ambiguous(service: Service) -> None:
    """Something answered, and may have sent the message."""
    service.reply = lambda _: b"220 smtp.example.com ESMTP\r\n\r\n"
    result = await sent_to(service.url)
    assert (result.outcome, result.ambiguous) == (Outcome.RETRY, True)


@pytest.mark.parametrize(
    "reply", [status(500), b"HTTP/1.1 500 " + NUMBER.encode() + b"\r\n\r\n", TEXT.encode()]
)
async def test_the_reason_quotes_nothing(service: Service, reply: bytes) -> None:
    """Neither number, text, address nor credentials, even where the service echoes the message."""
    service.reply, service.closes = lambda _: reply, True
    result = await sent_to(service.url.replace("//", "//me:secret@"))
    assert result.reason
    assert not any(quoted in result.reason for quoted in (NUMBER, TEXT, "secret", "127.0.0.1"))


# Its settings


def test_more_slots_than_open_files_is_one_clear_line() -> None:
    """Each send in flight needs a connection; without this check some would fail for want of a file."""
    require_connections(1000, limit=1100)
    with pytest.raises(UsageError, match=r"^1001 sends .* allows 1100 open files: lower SENDER_CONCURRENCY"):
        require_connections(1001, limit=1100)


async def test_urgent_slots_need_connections_too(bare_environment: object) -> None:
    """They are on top of SENDER_CONCURRENCY: 10,000,000 slots are 11,000,000 connections, which no system allows."""
    settings = Settings(provider_url="http://localhost/", sender_concurrency=10_000_000)
    with pytest.raises(UsageError, match=r"^11000000 sends in flight need as many connections"):
        create(settings)


@pytest.mark.parametrize("host", ["a" * 70 + ".com", "a..b"])
async def test_an_invalid_host_is_one_clear_line(bare_environment: object, host: str) -> None:
    """Nothing could ever be sent there: the sender refuses to start."""
    with pytest.raises(UsageError, match=r"^PROVIDER_URL: its host is not a valid host name$"):
        create(Settings(provider_url=f"http://{host}/sms"))


async def test_without_an_address_there_is_no_http(bare_environment: object) -> None:
    """The line names the setting that is missing."""
    with pytest.raises(UsageError, match=r"^PROVIDER=http needs PROVIDER_URL"):
        create(Settings())


async def test_the_settings_give_address_and_timeout(bare_environment: object, service: Service) -> None:
    """It posts to PROVIDER_URL and waits for PROVIDER_TIMEOUT."""
    service.silent = True
    for timeout_s in (0.2, 2, 20):  # a slow machine gets more time
        provider = create(Settings(provider_url=service.url, provider_timeout=timeout_s))
        result = await result_of(provider.send(message()))
        await provider.close()
        assert result.outcome is Outcome.RETRY
        if service.requests:
            break
    assert len(service.requests) == 1

"""TLS in the gateway: GATEWAY_TLS_CERT, GATEWAY_TLS_KEY."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import uvloop
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from common.errors import UsageError
from common.web.limits import Limits
from common.web.server import serving
from gateway.doors import gateway_tls
from tests.certificates import Certificate, make_certificate
from tests.gateway.running import NUMBER, quick_settings, running
from tests.gateway.test_http import GET, POST, Served, Talk, length, talk
from tests.waiting import eventually


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def trusting(certificate: Certificate) -> ssl.SSLContext:
    """The context of a client that trusts it."""
    return ssl.create_default_context(cafile=str(certificate.certificate))


@contextlib.asynccontextmanager
async def secured(certificate: Certificate, **limits: float) -> AsyncIterator[Served]:
    served = Served(**limits)
    context = certificate.files.context()
    async with serving(served.app(), "127.0.0.1", 0, served.limits, tls=context) as served.port:
        yield served
        served.let.set()


async def secured_talk(port: int, certificate: Certificate) -> Talk:
    return Talk(*await asyncio.open_connection("localhost", port, ssl=trusting(certificate)))


async def test_a_gateway_serves_over_tls(certificate: Certificate) -> None:
    """Messages by either lane, and events; each answer has HSTS."""
    async with running(
        sends=False, gateway_tls_cert=certificate.certificate, gateway_tls_key=certificate.key
    ) as gateway:
        url, trust = f"https://localhost:{gateway.port}", trusting(certificate)
        async with connect(f"wss://localhost:{gateway.port}/events", ssl=trust) as websocket:
            for _ in range(2):  # the first makes the key known
                sms = {"number": NUMBER, "text": "hello"}
                async with gateway.http.post(f"{url}/sms", json=sms, ssl=trust) as answer:
                    assert answer.status == 202
                    assert answer.headers["strict-transport-security"] == "max-age=31536000"
            async with asyncio.timeout(60):
                while NUMBER not in str(await websocket.recv()):
                    pass
        async with gateway.http.get(f"{url}/health", ssl=trust) as answer:
            assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_without_tls_there_is_no_hsts() -> None:
    """It would lock browsers out."""
    async with running(sends=False) as gateway, gateway.http.get("/health") as answer:
        assert "strict-transport-security" not in answer.headers


async def test_requests_over_tls_keep_their_bounds(certificate: Certificate) -> None:
    """Pipelined ones, a large body, and one that is refused and ends the connection."""
    body = b"b" * 90_000
    async with secured(certificate) as served:
        client = await secured_talk(served.port, certificate)
        await client.say(POST % (b"/echo", length(body)), body, GET % (b"/unread", b""), b"nonsense\r\n\r\n")
        answers = [await client.answer() for _ in range(3)]
        assert [(status, len(said)) for status, _, said in answers[:2]] == [(200, len(body)), (401, 2)]
        assert answers[2][0] == 400
        assert await client.at_end()


@pytest.mark.parametrize("said", [GET % (b"/", b""), b"\x16\x03\x01\x00\x05nonsense"])
async def test_a_client_without_tls_is_closed(
    certificate: Certificate, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted as others that are refused, and is no error in the log."""
    async with secured(certificate, report_s=0.0) as served:
        client = await (await talk(served.port)).say(said)
        await client.is_cut_off()
        await eventually(lambda: "clients_refused" in caplog.messages)
    assert max(record.levelno for record in caplog.records) == logging.WARNING


async def test_a_handshake_that_never_ends_is_cut_off(certificate: Certificate) -> None:
    """Its connection counts from the beginning, and has a time."""
    async with secured(certificate, handshake_s=0.1) as served:
        silent = await talk(served.port)
        assert await silent.is_cut_off()
    async with secured(certificate, handshake_s=600.0, connections=1) as served:
        silent = await talk(served.port)
        client = await secured_talk(served.port, certificate)
        assert (await (await client.say(GET % (b"/unread", b""))).answer())[0] == 401
        assert await silent.is_cut_off()


async def test_an_answer_that_nobody_reads_is_held_no_longer_than_without_tls(
    certificate: Certificate,
) -> None:
    """Also where it waits beneath TLS: encrypted, and for the kernel to take it."""
    size = 64 * 1024
    limits = Limits(sweep_s=0.02, write_s=0.2, send_buffer_bytes=4096)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async with serving(app, "127.0.0.1", 0, limits, tls=certificate.files.context()) as port:
        with await asyncio.to_thread(ask_over_tls, port, trusting(certificate)) as deaf:
            await eventually(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)


def ask_over_tls(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A client that asks and reads nothing, with small buffers in the kernel."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    secured = context.wrap_socket(client, server_hostname="localhost")
    secured.sendall(GET % (b"/", b""))
    return secured


async def test_a_client_that_ends_is_forgotten(certificate: Certificate) -> None:
    """Whatever it did before: its place is free again."""
    async with secured(certificate, connections=1, report_s=0.0) as served:
        for _ in range(3):
            client = await secured_talk(served.port, certificate)
            await client.say(GET % (b"/held", b""))
            await eventually(lambda: served.held >= 1)
            client.writer.close()
            await client.is_cut_off()
            served.held = 0


def test_no_byte_is_lost_before_the_handshake_begins(certificate: Certificate) -> None:
    """On uvloop, which commands use, bytes may come before TLS is in place: clients of other threads are as quick."""

    def ask(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            trusting(certificate).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(GET % (b"/unread", b""))
            return client.recv(1000)

    async def main() -> list[bytes]:
        async with secured(certificate, handshake_s=60.0) as served:
            return await asyncio.gather(*(asyncio.to_thread(ask, served.port) for _ in range(40)))

    answers = uvloop.run(main())
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 401"] * 40


def test_a_certificate_needs_its_key(certificate: Certificate) -> None:
    """Either alone is a usage error that names the other."""
    for name, missing in (("gateway_tls_cert", "GATEWAY_TLS_KEY"), ("gateway_tls_key", "GATEWAY_TLS_CERT")):
        with pytest.raises(UsageError, match=f"{missing} is not set"):
            gateway_tls(quick_settings(**{name: certificate.certificate}))


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_an_open_address_without_tls_is_warned_of(
    host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Others could listen on the way."""
    assert gateway_tls(quick_settings(gateway_host=host)) is None
    assert ("gateway_without_tls" in caplog.messages) == warns

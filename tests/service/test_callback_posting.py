"""One attempt of a callback: which address it goes to, and how it fails."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from common.tracking.port import Status
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.port import Callback, FinalStatus
from gateway.callbacks.posting import Poster, PostResult, guarded_session
from gateway.callbacks.resolver import ThreadResolver
from gateway.callbacks.signing import Signer
from tests.receiver import SECRET, Receiver
from tests.waiting import eventually


class FakeResolver(AbstractResolver):
    """Gives one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None:
        return


def first_only(address: IPv4Address | IPv6Address) -> bool:
    """Here 127.0.0.1 stands for a public address, and 127.0.0.2 for a private one."""
    return str(address) == "127.0.0.1"


async def no_owner(_: str) -> str | None:
    return None


@asynccontextmanager
async def poster(
    resolver: AbstractResolver,
    allows: Callable[[IPv4Address | IPv6Address], bool] = lambda _: True,
    limits: CallbackLimits | None = None,
) -> AsyncIterator[Poster]:
    async with guarded_session(allows, limits or CallbackLimits(), resolver) as session:
        yield Poster(session, Signer([SECRET]), no_owner)


async def post(poster: Poster, url: str) -> PostResult:
    return await poster.post(
        Callback(run="posted", seq=1, number="+1", url=url), FinalStatus(Status.SENT, 1, None)
    )


@pytest.mark.parametrize(
    ("host", "answers", "reason"),
    [
        ("127.0.0.1", [["127.0.0.1"], ["127.0.0.2"]], "500"),
        ("127.0.0.2", [["127.0.0.2"], ["127.0.0.1"]], "AddressRefusedError"),
        ("127.0.0.1", [["127.0.0.2", "127.0.0.1"]], "500"),
    ],
    ids=["allowed", "refused", "the allowed one of two"],
)
async def test_dns_rebinding_gains_nothing(host: str, answers: list[list[str]], reason: str) -> None:
    """A name is resolved once for an attempt, and the connection goes to the address that was checked."""
    async with Receiver(status=500).listening(host) as receiver:
        resolver = FakeResolver(*answers)
        async with poster(resolver, first_only) as posting:
            result = await post(posting, f"http://rebinding.example:{receiver.port}")
    assert (result.delivered, result.reason) == (False, reason)
    assert len(resolver.answers) == len(answers) - 1
    assert len(receiver.requests) == (reason == "500")


async def test_each_attempt_is_checked() -> None:
    """The second one finds a private address behind the name."""
    async with (
        Receiver(status=500, headers={"Connection": "close"}).listening() as public,
        Receiver().listening("127.0.0.2") as private,
        poster(FakeResolver(["127.0.0.1"], ["127.0.0.2"]), first_only) as posting,
    ):
        assert (await post(posting, f"http://rebinding.example:{public.port}")).reason == "500"
        result = await post(posting, f"http://rebinding.example:{private.port}")
        assert (result.delivered, result.reason) == (False, "AddressRefusedError")
        assert private.requests == []


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "no-such-name.invalid", "a..b", "127.1.1.1.1"])
async def test_names_that_cannot_be_resolved_fail(host: str) -> None:
    """Whether the codec of host names, the resolver or aiohttp raises."""

    class NoNames(FakeResolver):
        async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
            host.encode("idna")
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with poster(NoNames()) as posting:
        result = await post(posting, f"http://{host}/")
    assert not result.is_last
    assert result.reason.isidentifier()


async def test_connecting_has_a_limit_of_its_own() -> None:
    """A host that accepts no connection takes less time than one that is slow to respond."""

    class Silent(FakeResolver):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            await asyncio.Event().wait()
            return []

    limits = CallbackLimits(attempt_s=1_000.0, connect_s=0.05)
    async with poster(Silent(), limits=limits) as posting:
        assert not (await post(posting, "http://silent.example/")).is_last


async def test_a_silent_name_server_delays_no_other_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lookups keep their slots until it answers, though their attempts were cancelled."""
    answers, getaddrinfo = threading.Event(), socket.getaddrinfo

    def slow(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "silent.example":
            answers.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return getaddrinfo("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = ThreadResolver(4)
    async with Receiver().listening() as receiver, poster(resolver) as posting:
        silent = [asyncio.create_task(post(posting, "http://silent.example/")) for _ in range(3)]
        await eventually(lambda: resolver._slots._value == 1)
        for waiting in silent:
            waiting.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        assert (await post(posting, f"http://prompt.example:{receiver.port}")).delivered
        assert resolver._slots._value == 1
        answers.set()
        await eventually(lambda: resolver._slots._value == 4)

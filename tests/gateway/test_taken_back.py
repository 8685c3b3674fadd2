"""An Idempotency-Key of what is taken back: its next request is answered what is true, whoever died or slept before."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from common import background
from common.broker.memory import MemoryBroker
from common.errors import RunBusy
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Seqs, State
from common.web.keys.memory import MemoryApiKeys
from gateway.acceptance import groups
from gateway.acceptance.recovery import Recovery
from gateway.app import Stores
from gateway.idempotency.memory import MemoryIdempotency
from tests.gateway.calling_back import ELSEWHERE, Noting
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually

MESSAGES = {"/sms": 1, "/sms/batch": 3}
KEY = {"Idempotency-Key": "one"}
SMS = {"number": NUMBER, "text": "hello", "callback_url": ELSEWHERE}


class Gate:
    """Once shut, it lets the next one wait there, as in a gateway that sleeps, or died; others pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._woken = asyncio.Event()
        self._is_shut = False

    def shut(self) -> None:
        self._is_shut = True

    def wake(self) -> None:
        """Whoever waits there goes on."""
        self._woken.set()

    async def passed(self) -> None:
        if self._is_shut:
            self._is_shut = False
            self.reached.set()
            await self._woken.wait()


class Gates(dict[str, Gate]):
    """One before and one after each call that somebody asks for."""

    def __missing__(self, name: str) -> Gate:
        self[name] = Gate()
        return self[name]

    @contextlib.asynccontextmanager
    async def around(self, call: str) -> AsyncIterator[None]:
        await self[f"before {call}"].passed()
        yield
        await self[f"after {call}"].passed()


class Holding(MemoryBroker):
    """Keeps what is published, and confirms it when nothing is to be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.asked = asyncio.Event()

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.asked.set()
        if self.holds:
            return asyncio.get_running_loop().create_future()
        return super().publish(batch, lane, after)

    async def close(self) -> None:
        """Another gateway may be at it yet."""


class GatedLedger(MemoryLedger):
    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates
        self.beginning: list[asyncio.Task[None]] = []

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        # Redis has heard of it, whether or not somebody still waits for the answer.
        carried_out = asyncio.create_task(self._begin(run, recipe, total, producer))
        self.beginning.append(carried_out)
        await asyncio.shield(carried_out)

    async def _begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        async with self._gates.around("begin"):
            await super().begin(run, recipe, total, producer)

    async def announce(self, run: str, first: int, count: int) -> None:
        async with self._gates.around("announce"):
            await super().announce(run, first, count)

    async def withdraw(self, run: str, seqs: Seqs) -> Any:
        async with self._gates.around("withdraw"):
            return await super().withdraw(run, seqs)


class GatedKeys(MemoryIdempotency):
    """Knows the request that took a key last."""

    request: "asyncio.Task[Any] | None" = None

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates

    async def reserve(self, *args: Any) -> Any:
        self.request = asyncio.current_task()
        return await super().reserve(*args)

    async def void(self, *args: Any) -> bool:
        async with self._gates.around("void"):
            return await super().void(*args)

    async def release(self, *args: Any) -> None:
        async with self._gates.around("release"):
            await super().release(*args)


@dataclass
class World:
    """A gateway, and what stands between it and its neighbours."""

    gateway: Running
    path: str
    broker: Holding
    ledger: GatedLedger
    keys: GatedKeys
    callbacks: Noting
    gates: Gates

    @property
    def messages(self) -> int:
        return MESSAGES[self.path]

    @property
    def _body(self) -> Any:
        return SMS if self.path == "/sms" else [SMS] * self.messages

    async def post(self) -> tuple[int, Any]:
        """The request, always the same."""
        return await self.gateway.post(self.path, self._body, headers=KEY)

    async def post_and_give_up(self, when: Coroutine[Any, Any, Any]) -> None:
        """The same, but it ends unanswered as soon as that has happened."""
        posting = asyncio.create_task(self._refused())
        await when
        assert self.keys.request is not None
        self.keys.request.cancel()
        await posting

    async def _refused(self) -> None:
        async with self.gateway.http.post(self.path, json=self._body, headers=KEY) as answer:
            assert answer.status >= 500

    def pass_lease(self) -> None:
        """So much time passes that others may take the key, and the runs."""
        for entry in self.keys._entries.values():
            entry.until_s = 0
        for run in self.ledger._runs.values():
            run.producer_seen_us = 0

    async def at_rest(self) -> None:
        """Returns when nothing is in the hands of the gateway any more."""
        await eventually(lambda: not self._tasks(), describe="the gateway is at rest")

    async def die(self) -> None:
        """Ends whatever is under way, in the middle."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> "set[asyncio.Task[None]]":
        gateway = self.gateway.gateway
        return {*gateway._intake._tasks, *gateway._batch_intake._publishing}

    async def accepted(self) -> list[str]:
        """The ids of the messages, once the request is answered 202."""

        async def answer() -> Any:
            status, body = await self.post()
            assert status in (202, 409), body
            return body if status == 202 else None

        body = await eventually(answer, describe="the key is free")
        return [body["uuid"]] if self.path == "/sms" else list(body["ids"])

    async def states(self, uuids: list[str]) -> list[State]:
        found = []
        for uuid in uuids:
            run, _, seq = uuid.partition(".")
            (state,) = await self.ledger.states(run, np.array([int(seq)]))
            found.append(State(state))
        return found

    async def are_sent_once(self, uuids: list[str]) -> None:
        """Those of the last answer are sent, and no other."""

        async def sent() -> bool:
            assert await self.states(uuids) == [State.SENT] * self.messages
            now = await self.ledger.snapshot()
            assert (now.queued, now.sending, now.sent) == (0, 0, self.messages)
            return True

        await eventually(sent, describe="all is sent, once")


@contextlib.asynccontextmanager
async def world(path: str, monkeypatch: pytest.MonkeyPatch, sends: bool = True) -> AsyncIterator[World]:
    monkeypatch.setattr(groups, "TRY_FOR_S", 0.05)
    monkeypatch.setattr(background, "LAST_WORDS_S", 0.05)
    gates = Gates()
    broker, ledger, keys, callbacks = Holding(), GatedLedger(gates), GatedKeys(gates), Noting()
    stores = Stores(MemoryApiKeys(), keys, callbacks)
    about: Any = {"broker": broker, "ledger": ledger, "stores": stores, "sends": sends}
    async with running(**about, callback_secret="a secret") as gateway:
        yield World(gateway, path, broker, ledger, keys, callbacks, gates)


both = pytest.mark.parametrize("path", list(MESSAGES))


@both
async def test_what_was_given_up_is_sent_by_the_next_request(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request ends before the broker confirms: all of it is withdrawn, and its key is free, with no lease to wait
    for. The next one is answered 202, and that is true.
    """
    async with world(path, monkeypatch) as it:
        it.broker.holds = True
        await it.post_and_give_up(it.broker.asked.wait())
        await it.at_rest()
        assert (await it.ledger.snapshot()).failed == it.messages
        it.broker.holds = False
        uuids = await it.accepted()
        await it.are_sent_once(uuids)
        assert await it.accepted() == uuids


@both
@pytest.mark.parametrize(
    "step",
    ["before void", "after void", "before withdraw", "after withdraw", "before release", "after release"],
)
async def test_a_gateway_may_die_as_it_takes_back(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was at, the next request with the key is answered 202, and its messages are sent once."""
    async with world(path, monkeypatch) as it:
        it.broker.holds = True
        it.gates[step].shut()
        await it.post_and_give_up(it.broker.asked.wait())
        await it.gates[step].reached.wait()
        await it.die()
        it.broker.holds = False
        it.pass_lease()
        await it.are_sent_once(await it.accepted())


@both
@pytest.mark.parametrize("step", ["before void", "before withdraw"])
async def test_a_gateway_that_slept_leaves_what_another_accepted(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept for longer than it had the key, and another answered: of that it withdraws nothing, nor callbacks."""
    async with world(path, monkeypatch, sends=False) as it:
        it.broker.holds = True
        it.gates[step].shut()
        await it.post_and_give_up(it.broker.asked.wait())
        await it.gates[step].reached.wait()
        it.broker.holds = False
        it.pass_lease()
        uuids = await it.accepted()
        it.gates[step].wake()
        await it.at_rest()
        assert await it.states(uuids) == [State.QUEUED] * it.messages
        assert set(uuids) <= set(it.callbacks.owed)
        assert not set(uuids) & set(it.callbacks.dropped)
        assert (await it.ledger.snapshot()).queued == it.messages


@pytest.mark.parametrize(("path", "step"), [("/sms", "before announce"), ("/sms/batch", "before begin")])
async def test_a_gateway_that_slept_sends_nothing_that_another_made_anew(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept before the ledger had heard of its messages, and another began anew: it wakes, and goes on in vain. So
    does whoever finishes its run.
    """
    async with world(path, monkeypatch) as it:
        about: Any = {"broker": it.broker, "ledger": it.ledger, "tracker": it.gateway.tracker}
        about["stores"] = it.gateway.stores
        async with running(**about, sends=False, callback_secret="a secret") as sleeper:
            sleeping = replace(it, gateway=sleeper)
            asleep = [it.gates[step], it.gates["before void"]]
            for gate in asleep:
                gate.shut()
            await sleeping.post_and_give_up(it.gates[step].reached.wait())
            it.pass_lease()
            uuids = await it.accepted()
            for gate in asleep:
                gate.wake()
            await sleeping.at_rest()
            await asyncio.gather(*it.ledger.beginning, return_exceptions=True)
            it.pass_lease()
            for run in await it.ledger.runs():
                with contextlib.suppress(RunBusy):
                    await Recovery(it.broker, it.ledger, it.gateway.tracker, "another").finish(run)
            await it.are_sent_once(uuids)


async def test_what_was_sent_in_part_is_not_sent_twice_unawares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender had taken one message of a batch when its request ended: its key is answered 409, which says so."""
    async with world("/sms/batch", monkeypatch, sends=False) as it:
        it.broker.holds = True

        async def one_taken() -> None:
            await it.broker.asked.wait()
            (run,) = await it.ledger.runs()
            await it.ledger.claim(run, np.array([1]), False)

        await it.post_and_give_up(one_taken())
        await it.at_rest()
        it.broker.holds = False
        for _ in range(2):
            status, problem = await it.post()
            assert (status, "1 of 3 messages" in problem["detail"]) == (409, True), problem
        now = await it.ledger.snapshot()
        assert (now.published, now.failed, now.sending) == (3, 2, 1)


async def test_a_batch_that_begins_after_it_was_given_up_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis carries the beginning of its run out late, when it was withdrawn already: nobody finds a run to finish, and
    the next request's messages are sent once.
    """
    async with world("/sms/batch", monkeypatch) as it:
        it.gates["before begin"].shut()
        await it.post_and_give_up(it.gates["before begin"].reached.wait())
        await it.at_rest()
        it.gates["before begin"].wake()
        await asyncio.gather(*it.ledger.beginning, return_exceptions=True)
        uuids = await it.accepted()
        it.pass_lease()
        for run in await it.ledger.runs():
            await Recovery(it.broker, it.ledger, it.gateway.tracker, "another").finish(run)
        await it.are_sent_once(uuids)

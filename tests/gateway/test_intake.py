"""How messages that are posted one by one are gathered: the busier, the larger the groups, and none waits for long."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from common import background
from common.broker.memory import MemoryBroker
from common.errors import Refused
from common.ledger.memory import MemoryLedger
from common.messages import MAX_TEXT_CHARS, Batch, Lane, Message, Seqs, decode_batch
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record
from gateway.acceptance import groups, intake
from gateway.acceptance.batch_intake import BatchIntake, BatchRun
from gateway.acceptance.intake import Intake
from tests.gateway.running import NUMBER
from tests.waiting import eventually

LOOP_TURNS = 50


class Held(MemoryBroker):
    """Notes how large the batches are, and confirms none before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.unconfirmed: list[asyncio.Future[None]] = []

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.sizes.append(len(batch.messages))
        self.unconfirmed.append(asyncio.get_running_loop().create_future())
        return self.unconfirmed[-1]

    def confirm(self) -> None:
        """All so far."""
        for confirmed in self.unconfirmed:
            if not confirmed.done():
                confirmed.set_result(None)


class Busy:
    """An intake with one message under way, whose confirm is not there yet."""

    def __init__(self, broker: Held, taking: Intake) -> None:
        self.broker = broker
        self._taking = taking
        self._accepts: list[asyncio.Task[Record]] = []

    async def post(self, messages: int) -> None:
        """So many at once; returns when the intake has had its turns with them."""
        for _ in range(messages):
            accept = self._taking.accept(NUMBER, "hello", Lane.BULK)
            self._accepts.append(asyncio.create_task(accept))
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)

    async def accepted(self) -> list[int]:
        """The seqs of all, in the order in which they were posted, once all are confirmed."""

        def done() -> bool:
            self.broker.confirm()
            return all(accept.done() for accept in self._accepts)

        await eventually(done, describe="all are accepted")
        return [(await accept).seq for accept in self._accepts]


class NothingOwed:
    """Nobody has a callback."""

    async def owe(self, records: Sequence[Record]) -> None:
        return

    async def withdraw(self, records: Sequence[Record]) -> None:
        return


@pytest.fixture
async def busy() -> AsyncIterator[Busy]:
    broker = Held()
    taking = Intake(broker, MemoryLedger(), MemoryTracker(), NothingOwed(), "gateway-test")
    await taking.open()
    busy = Busy(broker, taking)
    await busy.post(1)
    await eventually(lambda: broker.sizes == [1], describe="the first one is under way")
    yield busy
    await busy.accepted()
    await taking.close()


async def test_what_comes_meanwhile_goes_together(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty messages that come while one is under way are one batch, which goes when that one is confirmed."""
    monkeypatch.setattr(intake, "GATHERING_S", 60)
    for _ in range(4):
        await busy.post(5)
    assert busy.broker.sizes == [1]
    busy.broker.confirm()
    await eventually(lambda: busy.broker.sizes == [1, 20], describe="the others follow together")
    assert await busy.accepted() == list(range(21))


async def test_a_full_group_does_not_wait(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirm that takes long does not limit how much is taken in."""
    monkeypatch.setattr(intake, "GATHERING_S", 60)
    monkeypatch.setattr(intake, "LARGEST_GROUP", 5)
    await busy.post(12)
    assert busy.broker.sizes == [1, 5, 5]
    assert await busy.accepted() == list(range(13))


async def test_a_confirm_that_stays_away_holds_nobody_up(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is neither full nor has a turn goes after GATHERING_S."""
    monkeypatch.setattr(intake, "GATHERING_S", 0.01)
    await busy.post(3)
    await eventually(lambda: busy.broker.sizes == [1, 3], describe="the others go on their own")
    assert not any(confirmed.done() for confirmed in busy.broker.unconfirmed)


class Refusing(MemoryLedger):
    """A ledger that refuses the first call of a method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._refused = method

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        self._refuse_once("begin")
        await super().begin(run, recipe, total, producer)

    async def announce(self, run: str, first: int, count: int) -> None:
        self._refuse_once("announce")
        await super().announce(run, first, count)

    def _refuse_once(self, method: str) -> None:
        if self._refused == method:
            self._refused = ""
            raise Refused("Redis refuses")


@pytest.mark.parametrize("method", ["begin", "announce"])
async def test_after_a_refusal_the_next_message_is_accepted(method: str) -> None:
    """Who waited hears of it at once, and neither the worker nor the session is broken for those who come later."""
    taking = Intake(MemoryBroker(), Refusing(method), MemoryTracker(), NothingOwed(), "gateway-test")
    await taking.open()
    with pytest.raises(Refused):
        await taking.accept(NUMBER, "hello", Lane.BULK)
    for _ in range(2):
        assert (await taking.accept(NUMBER, "hello", Lane.BULK)).number == NUMBER
    await taking.close()


class Stuck(MemoryLedger):
    """A ledger that does not answer."""

    async def announce(self, run: str, first: int, count: int) -> None:
        await asyncio.Event().wait()


async def test_what_was_given_up_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away callers come and give up: no more of their messages are held than may be pending."""
    monkeypatch.setattr(intake, "MOST_PENDING", 100)
    taking = Intake(MemoryBroker(), Stuck(), MemoryTracker(), NothingOwed(), "gateway-test")
    await taking.open()
    for _ in range(5):
        accepts = [asyncio.create_task(taking.accept(NUMBER, "hello", Lane.BULK)) for _ in range(100)]
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)
        for accept in accepts:
            accept.cancel()
        await asyncio.gather(*accepts, return_exceptions=True)
        assert len(taking._waiting) <= 100
    assert taking.pending == 0
    for task in (*taking._tasks, taking._working):
        assert task is not None
        task.cancel()


async def test_long_texts_that_come_together_fit_their_bodies() -> None:
    """256 of the longest texts, in characters of three bytes, are more than a body may be: all are accepted."""
    broker = MemoryBroker()
    taking = Intake(broker, MemoryLedger(), MemoryTracker(), NothingOwed(), "gateway-test")
    await taking.open()
    text = "警" * MAX_TEXT_CHARS
    await asyncio.gather(*(taking.accept(NUMBER, text, Lane.BULK) for _ in range(2 * intake.LARGEST_GROUP)))
    bodies = [held.body for held in broker.queues[Lane.BULK].bodies]
    assert sum(len(decode_batch(body)[0].messages) for body in bodies) == 2 * intake.LARGEST_GROUP
    await taking.close()


class Silent(MemoryLedger):
    """A ledger that from some time on does not answer."""

    silent = False

    async def confirm(self, run: str, upto: int) -> None:
        await self._answered()
        await super().confirm(run, upto)

    async def withdraw(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        await self._answered()
        return await super().withdraw(run, seqs)

    async def _answered(self) -> None:
        if self.silent:
            await asyncio.Event().wait()


@pytest.mark.parametrize("broker", [MemoryBroker, Held])
async def test_it_ends_though_redis_is_away(
    broker: type[MemoryBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is waited for in vain as it closes, be its messages confirmed or to be withdrawn; and it does not end the
    run, which is for another gateway to finish.
    """
    monkeypatch.setattr(background, "LAST_WORDS_S", 0.05)
    monkeypatch.setattr(groups, "TRY_FOR_S", 0.01)
    ledger = Silent()
    taking = Intake(broker(), ledger, MemoryTracker(), NothingOwed(), "gateway-test")
    await taking.open()
    accept = asyncio.create_task(taking.accept(NUMBER, "hello", Lane.BULK))
    await eventually(
        lambda: taking._session is not None and taking._session._next == 1, describe="it is taken in"
    )
    ledger.silent = True
    await taking.close()
    assert not taking._tasks
    (run,) = await ledger.runs()
    assert (await ledger.publication(run)).total == 0
    accept.cancel()
    await asyncio.gather(accept, return_exceptions=True)


async def test_a_batch_holds_nobody_up_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Redis and RabbitMQ away, closing ends all the same."""
    monkeypatch.setattr(background, "LAST_WORDS_S", 0.05)
    broker, ledger = Held(), Silent()
    taking = BatchIntake(broker, ledger, MemoryTracker(), NothingOwed(), "gateway-test")
    batch = BatchRun("a-batch", [Message(0, NUMBER, "hello")], Lane.BULK, track=False)
    accept = asyncio.create_task(taking.accept(batch))
    await eventually(lambda: broker.sizes == [1], describe="it is being published")
    ledger.silent = True
    accept.cancel()
    await asyncio.gather(accept, return_exceptions=True)
    await taking.close()
    assert taking.given_up == 0

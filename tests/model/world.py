"""The world of the model: real senders and producers on a virtual clock, with a broker, a ledger and a provider.

Nothing waits: a virtual second passes as fast as its callbacks run. Broker and ledger are in memory. Each process
reaches them through its own clients, which let single calls fail in the way that the model chooses.
"""

import asyncio
import logging
import math
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum, auto
from typing import Any, TypeVar

import numpy as np
import pytest

from common.broker.memory import MemoryBroker, MemorySubscription
from common.broker.port import ParkedQueue, Subscription
from common.errors import PublishFailed
from common.ledger.memory import MemoryLedger
from common.ledger.values import Claim, Outcomes
from common.messages import Batch, Lane, Message, Outcome, Seqs
from common.publishing.recipes import Recipe
from common.publishing.run import Job, Limits, RunPublisher, Timing
from common.rate.port import RateLimit
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.service import Sender

T = TypeVar("T")

SLOW_S = 0.4  # longer than a flush, so that others may act in between
LATE_S = 1.0  # also longer than an attempt and its retry
BACKOFF_S = 0.05
BAD_SEQ = 5  # the message of each run with an invalid number
MessageId = tuple[str, int]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting."""

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.now = 0.0
        self.until = 0.0
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        """Runs everything that is due within this many seconds. 0 runs what needs no time."""
        self.until = self.now + seconds
        self.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, however long it takes in virtual time."""
        self.until = math.inf
        return self.run_until_complete(work)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that needs no time."""
        self.until = self.now
        return self.run_until_complete(work)

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Collects unhandled errors, except failed publishes of killed processes."""
        if not isinstance(context.get("exception"), PublishFailed):
            self.complaints.append(str(context))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never waits, such as a call of the memory ledger, without the loop."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class _JumpingSelector(selectors.SelectSelector):
    """Advances virtual time instead of waiting, and stops the loop at its limit."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        if timeout is None or loop.now + timeout > loop.until:
            loop.now = max(loop.now, loop.until)
            loop.stop()
        elif timeout > 0:
            loop.now += timeout
        return []


@pytest.fixture
def virtual_loop() -> Iterator[VirtualLoop]:
    """A loop in virtual time. Warnings are not logged: each is one that the model asked for."""
    loop = VirtualLoop()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    yield loop
    logging.disable(disabled)
    loop.close()


class Fate(Enum):
    """What happens to one ledger call."""

    LATE = auto()  # executed after a while, even if the caller has died
    LATE_ANSWER = auto()  # executed, and answered after a while
    ANSWER_LOST = auto()  # executed, not answered, and repeated
    UNHEARD = auto()  # never arrives, and is repeated
    OVERTAKEN = auto()  # a claim is executed after its repetition; another call never arrives


class Confirm(Enum):
    """What happens to one publish."""

    LOST = auto()  # never arrives, and fails
    UNCONFIRMED = auto()  # arrives, and fails nevertheless
    LATE = auto()  # arrives, and is confirmed after a while


class Ending(Enum):
    """How one send ends."""

    SENT = auto()
    FAILED = auto()
    RETRY = auto()
    TIMEOUT_SENT = auto()  # the provider sent it, and its answer was lost
    TIMEOUT_UNSENT = auto()  # the provider never got it


OUTCOMES = {
    Ending.SENT: Outcome.SENT,
    Ending.FAILED: Outcome.FAILED,
    Ending.RETRY: Outcome.RETRY,
    Ending.TIMEOUT_SENT: Outcome.RETRY,
    Ending.TIMEOUT_UNSENT: Outcome.RETRY,
}


class World:
    """The broker, the ledger, and what the provider really sent.

    Attributes:
        loop: The virtual loop.
        broker: The memory broker.
        ledger: The memory ledger.
        fates: What happens to the next calls of the ledger, by their name.
        confirms: What happens to the next publishes.
        went_out: How often each message was really sent.
        may_be_failed: The messages that may be in the state failed.
        asked_for: The messages that a sender has tried to claim.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.broker = MemoryBroker()
        self.ledger = MemoryLedger(clock=loop.time)
        self.fates: defaultdict[str, deque[Fate]] = defaultdict(deque)
        self.confirms: deque[Confirm] = deque()
        self.went_out: Counter[MessageId] = Counter()
        self.may_be_failed: set[MessageId] = set()
        self.asked_for: set[MessageId] = set()

    def calm(self) -> None:
        """Cancels all failures that are still to come."""
        self.fates.clear()
        self.confirms.clear()


class LedgerClient:
    """The ledger as one process sees it. It repeats unanswered calls, as the real client does."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def announce(self, run: str, first: int, count: int) -> None:
        await self._call("announce", lambda _: self._world.ledger.announce(run, first, count))

    async def confirm(self, run: str, upto: int) -> None:
        await self._call("confirm", lambda _: self._world.ledger.confirm(run, upto))

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        self._world.asked_for |= {(run, seq) for seq in seqs.tolist()}
        return await self._call(
            "claim", lambda again: self._world.ledger.claim(run, seqs, redelivered or again)
        )

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        await self._call(
            "settle", lambda twice: self._world.ledger.settle(run, outcomes, sender, again or twice)
        )

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        await self._call("release", lambda twice: self._world.ledger.release(run, seqs, again or twice))

    async def reject(self, bodies: int) -> None:
        await self._call("reject", lambda _: self._world.ledger.reject(bodies))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.ledger, name)

    async def _call(self, name: str, carry_out: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        fates, again = self._world.fates[name], False
        while True:
            match fates.popleft() if fates else None:
                case None:
                    return await carry_out(again)
                case Fate.LATE:
                    return await asyncio.shield(asyncio.ensure_future(_later(carry_out(again))))
                case Fate.LATE_ANSWER:
                    answer = await carry_out(again)
                    await asyncio.sleep(SLOW_S)
                    return answer
                case Fate.ANSWER_LOST:
                    await carry_out(again)
                case Fate.OVERTAKEN if name == "claim":
                    self._world.loop.create_task(_later(carry_out(again)))
                case _:
                    await asyncio.sleep(SLOW_S - BACKOFF_S)
            await asyncio.sleep(BACKOFF_S)
            again = True


async def _later(work: Coroutine[Any, Any, T]) -> T:
    await asyncio.sleep(LATE_S)
    return await work


class BrokerClient:
    """The broker as one process sees it, over a connection that may be cut."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._subscriptions: list[MemorySubscription] = []
        self._unconfirmed: set[asyncio.Future[None]] = set()

    @property
    def in_hand(self) -> int:
        """The number of unacked deliveries."""
        return sum(subscription.unacked for subscription in self._subscriptions)

    async def ready(self) -> None:
        return

    async def subscribe(self, queue: Lane | ParkedQueue, prefetch: int) -> Subscription:
        subscription = await self._world.broker.subscribe(queue, prefetch)
        assert isinstance(subscription, MemorySubscription)
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        return self._published(lambda: self._world.broker.publish(batch, lane, after))

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        return self._published(lambda: self._world.broker.park(batch, lane))

    def disconnect(self) -> None:
        """Cuts the connection, which is restored at once."""
        for subscription in self._subscriptions:
            subscription.disconnect()
        for confirm in self._unconfirmed:
            if not confirm.done():
                confirm.set_exception(PublishFailed("disconnected"))
        self._unconfirmed.clear()

    async def close(self) -> None:
        """Closes the connection."""
        for subscription in self._subscriptions:
            await subscription.close()
            subscription.disconnect()

    def _published(self, publish: "Callable[[], asyncio.Future[None]]") -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        match self._world.confirms.popleft() if self._world.confirms else None:
            case None:
                return publish()
            case Confirm.LOST:
                confirm = loop.create_future()
            case Confirm.UNCONFIRMED:
                publish()
                confirm = loop.create_future()
            case Confirm.LATE:
                publish()
                confirm = loop.create_future()
                loop.call_later(SLOW_S, self._confirmed, confirm)
                self._unconfirmed.add(confirm)
                return confirm
        confirm.set_exception(PublishFailed("not confirmed"))
        return confirm

    def _confirmed(self, confirm: "asyncio.Future[None]") -> None:
        self._unconfirmed.discard(confirm)
        if not confirm.done():
            confirm.set_result(None)


class Hand:
    """A provider whose sends end when and how the model decides. With `by_itself`, all succeed at once."""

    reads_messages = False

    def __init__(self, world: World, last_attempt: int) -> None:
        self.in_flight: list[tuple[Sends, int]] = []
        self.by_itself = False
        self._world = world
        self._last_attempt = last_attempt

    def start(self, sends: Sends) -> None:
        self.in_flight += [(sends, k) for k in range(sends.seqs.size)]
        if self.by_itself:
            self.end_all()

    def end(self, place: int, ending: Ending, took_s: float) -> None:
        """Ends one send."""
        sends, k = self.in_flight.pop(place)
        message = (sends.run, int(sends.seqs[k]))
        sends.outcomes[k] = OUTCOMES[ending]
        sends.times_us[k] = round(took_s * 1e6)
        if ending in (Ending.TIMEOUT_SENT, Ending.TIMEOUT_UNSENT):
            if sends.ambiguous is None:
                sends.ambiguous = np.zeros(sends.seqs.size, np.bool_)
            sends.ambiguous[k] = True
        if ending in (Ending.SENT, Ending.TIMEOUT_SENT):
            self._world.went_out[message] += 1
        if ending is not Ending.SENT and (ending is Ending.FAILED or sends.attempt >= self._last_attempt):
            self._world.may_be_failed.add(message)
        sends.finish(k, k + 1)

    def end_all(self) -> None:
        """Ends all sends with success."""
        while self.in_flight:
            self.end(0, Ending.SENT, 0.01)

    def die(self, went_out: bool) -> None:
        """Drops the sends of a killed sender, which may have gone out."""
        if went_out:
            self._world.went_out.update((sends.run, int(sends.seqs[k])) for sends, k in self.in_flight)
        self.in_flight.clear()

    async def close(self) -> None:
        return


class SenderProcess:
    """A sender that can be stopped, killed and disconnected."""

    def __init__(
        self,
        world: World,
        name: str,
        slots: int,
        max_attempts: int,
        keep_failed: bool,
        limit: RateLimit | None,
    ) -> None:
        self._loop = world.loop
        self._stop = asyncio.Event()
        self.broker = BrokerClient(world)
        self.provider = Hand(world, max_attempts)
        broker: Any = self.broker
        ledger: Any = LedgerClient(world)
        self._sender = Sender(
            name,
            broker,
            ledger,
            self.provider,
            slots=slots,
            policy=RetryPolicy(max_attempts, backoff_s=0.5, keep_failed=keep_failed),
            grace_s=2,
            limit=limit,
        )
        self._task = world.loop.create_task(self._run())

    @property
    def runs(self) -> bool:
        """Whether it is still running. Raises the error that ended it."""
        if self._task.done():
            self._task.result()
        return not self._task.done()

    @property
    def idle(self) -> bool:
        """Whether it has no unacked delivery and no message in flight."""
        return self.broker.in_hand == 0 and not any(lane.in_flight for lane in self._sender.lanes)

    async def _run(self) -> None:
        await self._sender.run(self._stop)
        await self.broker.close()

    def stop(self) -> None:
        """Stops it as SIGTERM does."""
        self._stop.set()

    def kill(self, went_out: bool) -> None:
        """Ends it as SIGKILL does: without a further call, and its deliveries are redelivered."""
        self.provider.die(went_out)
        self._loop.do(self.broker.close())
        self._task.cancel()


class Numbers:
    """A source of messages, one of which has an invalid number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        raise NotImplementedError("the model resumes this source by its count")

    def messages(self, first: int) -> Iterator[Message]:
        return (message(seq) for seq in range(first, self.count))


def message(seq: int) -> Message:
    return Message(seq, "0401234567" if seq == BAD_SEQ else "+999123456789", "text")


class ProducerProcess:
    """A producer of one run, from its beginning or from where an earlier one stopped."""

    def __init__(self, world: World, run: str, count: int, batch_size: int, lane: Lane, first: int) -> None:
        broker: Any = BrokerClient(world)
        ledger: Any = LedgerClient(world)
        job = Job(run=run, source=Numbers(count), batch_size=batch_size, lane=lane, first=first)
        # A few messages fill its window.
        timing, limits = Timing(confirm_every_s=-1), Limits(announced_block=5, window_batches=2)
        publisher = RunPublisher(broker, ledger, job, timing=timing, limits=limits)
        self._task = world.loop.create_task(publisher.publish())

    @property
    def runs(self) -> bool:
        """Whether it is still running. Raises the error that ended it."""
        if self._task.done():
            self._task.result()
        return not self._task.done()

    def kill(self) -> None:
        """Ends it as SIGKILL does. Its run can be resumed."""
        self._task.cancel()

"""A model of acceptance, outboxes and leases beside the real thing: whatever happens in whatever order, they agree.

Two gateways call a store. Each may crash between any two calls, sleep past its lease, lose an answer and repeat the
call, relay with an old lease, or take over the other's runs. What is kept for show may have a bound, beyond which the
store removes the oldest; never what waits. At the end all outboxes are relayed, and each message that was accepted is
in the broker.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.keys import Keys
from common.messages import Lane, Message
from common.redis import connect_redis
from common.settings import load_settings
from gateway.acceptance.port import (
    Bounds,
    Exceptional,
    Group,
    GroupAnswer,
    IdempotencyKey,
    Item,
    Lease,
    LeaseLost,
    NewRun,
    Outbox,
    Verdict,
)
from tests.contract.acceptance_benches import (
    LEASE_S,
    AcceptanceBench,
    memory_acceptances,
    redis_acceptances,
)
from tests.examples import examples
from tests.servers import RedisServer

T = TypeVar("T")
MOST = 40
NUMBER = "+541166587382"
gateways = st.sampled_from(["a", "b"])
# A key, and whether the request is another one than usual.
keys = st.one_of(st.none(), st.tuples(st.integers(0, 4), st.booleans()))


@dataclass
class ModelRun:
    """What a run should be.

    Attributes:
        texts: Those of the messages that are accepted.
        fence: The highest fencing token.
        lease_until_s: When the lease ends; None once the run is relayed.
    """

    texts: list[str] = field(default_factory=list)
    relayed: int = 0
    fence: int = 1
    closed: bool = False
    lease_until_s: float | None = None


@dataclass
class ModelGateway:
    """What a gateway has in memory.

    Attributes:
        outbox: The run that it accepts into.
        calls: How often it has called `accept` for it.
        relays: The runs that it relays, each with the seq up to which it has published.
    """

    outbox: Outbox | None = None
    calls: int = 0
    relays: dict[Lease, tuple[Outbox, int]] = field(default_factory=dict)


class AcceptanceMachine(RuleBasedStateMachine):
    loop: asyncio.AbstractEventLoop
    redis_server: RedisServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.runs: dict[str, ModelRun] = {}
        self.keys: dict[int, tuple[bool, str]] = {}
        self.gateways = {"a": ModelGateway(), "b": ModelGateway()}
        # Leases that somebody had once.
        self.old: list[Lease] = []
        self.broker: set[str] = set()
        self.named = 0
        self.canceled: set[tuple[str, int]] = set()
        self.bench: AcceptanceBench
        self.client: Any = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize(kept_bytes=st.sampled_from([None, 0, 2_000]))
    def begin(self, kept_bytes: int | None) -> None:
        self.kept_bytes = kept_bytes
        bounds = Bounds(messages=MOST)
        if self.redis_server is None:
            self.bench = memory_acceptances(bounds)
            return
        server = self.redis_server
        server.flush()
        self.client = self.call(
            connect_redis(load_settings(redis_host=server.host, redis_port=server.port), 10)
        )
        self.bench = self.call(redis_acceptances(self.client, bounds, kept_bytes=kept_bytes))

    # What a gateway does.

    @rule(gateway=gateways, twice=st.booleans())
    def open(self, gateway: str, twice: bool) -> None:
        name = self.new_name()
        for _ in range(1 + twice):
            outbox = self.call(self.bench.acceptances.open(name, Lane.BULK))
        self.runs[name] = ModelRun(lease_until_s=self.now_s + LEASE_S)
        here = self.gateways[gateway]
        here.outbox, here.calls = outbox, 0
        self.hold(here, outbox)

    @rule(gateway=gateways, asked=st.lists(keys, max_size=6), tries=st.integers(1, 3))
    def accept(self, gateway: str, asked: list[tuple[int, bool] | None], tries: int) -> None:
        """The answers of all tries but the last are lost."""
        here = self.gateways[gateway]
        if here.outbox is None:
            return
        self.trim()
        lease = here.outbox.lease
        items = [self.item(k, key) for k, key in enumerate(asked)]
        relayed = self.published_by(here, lease)
        group = Group(number=here.calls + 1, items=items, accepted_us=7, relayed=relayed)
        run = self.runs[lease.run]
        if run.closed or run.fence != lease.fence:
            with pytest.raises(LeaseLost):
                self.call(self.bench.acceptances.accept(here.outbox, group))
            here.outbox = None
            return
        expected = self.expect(lease.run, items, asked, relayed)
        for _ in range(tries):
            assert self.call(self.bench.acceptances.accept(here.outbox, group)) == expected
        run.lease_until_s = self.now_s + LEASE_S
        here.calls += 1

    @precondition(lambda self: any(here.calls for here in self.gateways.values()))
    @rule(gateway=gateways)
    def a_late_copy_of_an_older_call_arrives(self, gateway: str) -> None:
        """A call that was sent before the last one is carried out by no copy of it that the network held up."""
        here = self.gateways[gateway]
        if here.outbox is None or here.calls < 2:
            return
        group = Group(number=here.calls - 1, items=[Item(NUMBER, "late")], accepted_us=7)
        with pytest.raises(LeaseLost):
            self.call(self.bench.acceptances.accept(here.outbox, group))

    @rule(
        gateway=gateways,
        messages=st.integers(1, 6),
        track=st.booleans(),
        key=keys,
        tries=st.integers(1, 2),
        hears=st.booleans(),
    )
    def accept_run(
        self, gateway: str, messages: int, track: bool, key: tuple[int, bool] | None, tries: int, hears: bool
    ) -> None:
        """If it does not hear the answer, the run is there, and nobody relays it before its lease ends."""
        self.trim()
        here, name = self.gateways[gateway], self.new_name()
        texts = [self.item(k, None).text for k in range(messages)]
        batch = NewRun(
            run=name,
            messages=[Message(seq, NUMBER, text) for seq, text in enumerate(texts)],
            lane=Lane.URGENT,
            track=track,
            accepted_us=7,
            key=self.item(0, key).key,
        )
        expected = self.expect_run(name, messages, key)
        for _ in range(tries):
            answer = self.call(self.bench.acceptances.accept_run(batch))
            if expected is not None:
                assert answer == expected
                continue
            assert isinstance(answer, Outbox)
            assert (answer.lease, answer.accepted) == (Lease(name, 1), messages)
        if expected is None:
            self.runs[name] = ModelRun(texts=texts, closed=True, lease_until_s=self.now_s + LEASE_S)
            if hears and isinstance(answer, Outbox):
                self.hold(here, answer)

    @rule(gateway=gateways, data=st.data(), messages=st.integers(0, 5), confirms=st.booleans())
    def relay(self, gateway: str, data: st.DataObject, messages: int, confirms: bool) -> None:
        """Publishes some of a run; the confirm may be left out, as by a crash."""
        here = self.gateways[gateway]
        if not here.relays:
            return
        lease = data.draw(st.sampled_from(sorted(here.relays, key=str)))
        outbox, position = here.relays[lease]
        run = self.runs[lease.run]
        upto = min(position + messages, len(run.texts))
        if run.fence == lease.fence and position >= run.relayed and upto > position:
            found = self.call(self.bench.acceptances.read(outbox, position, upto - position))
            assert found == [Message(seq, NUMBER, run.texts[seq]) for seq in range(position, upto)]
        # It may have them in memory, so that the lease does not matter.
        self.broker.update(f"{lease.run}.{seq}" for seq in range(position, upto))
        here.relays[lease] = (outbox, upto)
        if confirms:
            self.confirm(here, lease, upto, close=False)

    @rule(gateway=gateways, data=st.data())
    def close(self, gateway: str, data: st.DataObject) -> None:
        here = self.gateways[gateway]
        if here.relays:
            lease = data.draw(st.sampled_from(sorted(here.relays, key=str)))
            self.confirm(here, lease, here.relays[lease][1], close=True)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), relayed=st.integers(0, 50))
    def confirm_with_an_old_lease(self, data: st.DataObject, relayed: int) -> None:
        lease = data.draw(st.sampled_from(self.old))
        if self.runs[lease.run].fence != lease.fence:
            with pytest.raises(LeaseLost):
                self.call(self.bench.acceptances.confirm(lease, relayed, close=True))
            self.call(self.bench.acceptances.release(lease))

    # What goes wrong, and what others do.

    @rule(gateway=gateways)
    def crash(self, gateway: str) -> None:
        self.gateways[gateway] = ModelGateway()

    @rule(gateway=gateways)
    def stop(self, gateway: str) -> None:
        """It gives its leases up."""
        for lease in self.gateways[gateway].relays:
            self.call(self.bench.acceptances.release(lease))
            run = self.runs[lease.run]
            if run.fence == lease.fence and run.lease_until_s is not None:
                run.lease_until_s = float("-inf")
        self.crash(gateway)

    @rule(seconds=st.sampled_from([1.0, LEASE_S, 3 * LEASE_S]))
    def time_passes(self, seconds: float) -> None:
        self.call(self.bench.leap(seconds))
        self.now_s += seconds

    @rule(gateway=gateways, silent_s=st.sampled_from([0.0, 5.0]))
    def take_over(self, gateway: str, silent_s: float) -> None:
        before = self.now_s - silent_s
        ended = {
            name
            for name, run in self.runs.items()
            if run.lease_until_s is not None and run.lease_until_s <= before
        }
        outbox = self.call(self.bench.acceptances.take_over(silent_s))
        if outbox is None:
            assert not ended
            return
        assert outbox.lease.run in ended
        run = self.runs[outbox.lease.run]
        run.fence += 1
        run.closed, run.lease_until_s = True, self.now_s + LEASE_S
        assert outbox.lease.fence == run.fence
        assert (outbox.relayed, outbox.accepted) == (run.relayed, len(run.texts))
        self.hold(self.gateways[gateway], outbox)

    @rule()
    def trim(self) -> None:
        kept = self.call(self.bench.acceptances.trim())
        if self.is_bounded:
            assert kept.bytes <= (self.kept_bytes or 0)
            assert int(self.call(self.client.hget(Keys().outbox_totals, "kept_bytes")) or 0) == kept.bytes

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Somebody takes back messages that are accepted, relayed or not."""
        accepted = [name for name, run in self.runs.items() if run.texts]
        if accepted:
            name = data.draw(st.sampled_from(accepted))
            seq = data.draw(st.integers(0, len(self.runs[name].texts) - 1))
            if self.call(self.bench.ledger.cancel(name, np.array([seq]))).all():
                self.canceled.add((name, seq))

    # What must hold.

    @invariant()
    def the_backlog_is_exact(self) -> None:
        messages, size = self.call(self.bench.acceptances.backlog())
        assert messages == sum(len(run.texts) - run.relayed for run in self.runs.values()) <= MOST
        assert (size > 0) == (messages > 0) or size > 0
        assert size >= 0

    @invariant()
    def each_accepted_message_is_published_once(self) -> None:
        now = self.call(self.bench.ledger.snapshot())
        accepted = sum(len(run.texts) for run in self.runs.values())
        canceled = len(self.canceled)
        assert (now.published, now.failed, now.queued) == (accepted, canceled, accepted - canceled)

    @invariant()
    def nothing_is_in_the_broker_that_was_not_accepted(self) -> None:
        accepted = {f"{name}.{seq}" for name, run in self.runs.items() for seq in range(len(run.texts))}
        assert self.broker <= accepted
        assert {id for _, id in self.keys.values()} <= accepted | set(self.runs)

    def teardown(self) -> None:
        """All gateways crash; one that comes later relays what is left, all of it."""
        if not hasattr(self, "bench"):
            return
        self.gateways = {"c": ModelGateway()}
        self.time_passes(10 * LEASE_S)
        here = self.gateways["c"]
        while any(run.lease_until_s is not None for run in self.runs.values()):
            before = len(here.relays)
            self.take_over("c", 0.0)
            assert len(here.relays) == before + 1
            lease, (outbox, position) = next(reversed(here.relays.items()))
            count = outbox.accepted - position
            for message in self.call(self.bench.acceptances.read(outbox, position, count)):
                assert message is not None
                self.broker.add(f"{lease.run}.{message.seq}")
            self.confirm(here, lease, outbox.accepted, close=True)
        relayed = {f"{name}.{seq}" for name, run in self.runs.items() for seq in range(len(run.texts))}
        assert self.broker == relayed
        assert self.call(self.bench.acceptances.backlog()) == (0, 0)
        for name, run in self.runs.items():
            now = self.call(self.bench.ledger.publication(name))
            assert (now.announced, now.confirmed, now.total) == (len(run.texts),) * 3
            if run.texts:
                track = self.call(self.bench.tracker.messages(name, range(len(run.texts))))
                found = [message and message.text for message in track]
                if self.is_bounded:
                    found = [text or given for text, given in zip(found, run.texts, strict=True)]
                assert found == run.texts
        if self.client is not None:
            self.call(self.client.aclose())

    # The model itself.

    def new_name(self) -> str:
        self.named += 1
        return f"run-{self.named}"

    def item(self, k: int, key: tuple[int, bool] | None) -> Item:
        text = f"text {len(self.runs)} {k}"
        if key is None:
            return Item(NUMBER, text)
        name, other = key
        return Item(NUMBER, text, key=IdempotencyKey("me", str(name), "other" if other else "usual"))

    def expect(
        self, name: str, items: list[Item], asked: list[tuple[int, bool] | None], relayed: int
    ) -> GroupAnswer:
        run = self.runs[name]
        run.relayed = max(run.relayed, relayed)
        first, exceptions = len(run.texts), dict[int, Exceptional]()
        for at, (item, key) in enumerate(zip(items, asked, strict=True)):
            exceptional = self.bound(key)
            if exceptional is None and self.backlog() >= MOST:
                exceptional = Exceptional(Verdict.FULL)
            if exceptional is not None:
                exceptions[at] = exceptional
                continue
            if key is not None:
                self.keys[key[0]] = (key[1], f"{name}.{len(run.texts)}")
            run.texts.append(item.text)
        return GroupAnswer(first, exceptions)

    def expect_run(self, name: str, messages: int, key: tuple[int, bool] | None) -> Exceptional | None:
        exceptional = self.bound(key)
        if exceptional is None and self.backlog() + messages > MOST:
            exceptional = Exceptional(Verdict.FULL)
        if exceptional is None and key is not None:
            self.keys[key[0]] = (key[1], name)
        return exceptional

    def bound(self, key: tuple[int, bool] | None) -> Exceptional | None:
        if key is None or key[0] not in self.keys:
            return None
        other, id = self.keys[key[0]]
        if self.is_bounded and not self.is_kept(key[0]):
            run, _, seq = id.rpartition(".")  # of a key of a run, the id is the run's
            assert self.runs[run or id].relayed > (int(seq) if run else 0)
            del self.keys[key[0]]
            return None
        return Exceptional(Verdict.REPLAYED, id) if other == key[1] else Exceptional(Verdict.CONFLICT)

    @property
    def is_bounded(self) -> bool:
        """Whether what is kept for show has a bound."""
        return self.client is not None and self.kept_bytes is not None

    def is_kept(self, key: int) -> bool:
        return bool(self.call(self.client.exists(Keys().idempotency_key("me", str(key)))))

    def backlog(self) -> int:
        return sum(len(run.texts) - run.relayed for run in self.runs.values())

    def hold(self, here: ModelGateway, outbox: Outbox) -> None:
        here.relays[outbox.lease] = (outbox, outbox.relayed)
        self.old.append(outbox.lease)

    def published_by(self, here: ModelGateway, lease: Lease) -> int:
        return here.relays[lease][1] if lease in here.relays else 0

    def confirm(self, here: ModelGateway, lease: Lease, upto: int, close: bool) -> None:
        run = self.runs[lease.run]
        if run.fence != lease.fence:
            with pytest.raises(LeaseLost):
                self.call(self.bench.acceptances.confirm(lease, upto, close))
            del here.relays[lease]
            return
        assert self.call(self.bench.acceptances.confirm(lease, upto, close)) == len(run.texts)
        run.relayed = max(run.relayed, upto)
        run.closed |= close
        over = run.closed and run.relayed == len(run.texts)
        run.lease_until_s = None if over else self.now_s + LEASE_S


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.timeout(300)
def test_acceptance_in_memory_is_what_the_model_says(loop: asyncio.AbstractEventLoop) -> None:
    """Any sequence of calls, crashes and takeovers leaves the same answers, outboxes and counters."""
    AcceptanceMachine.loop, AcceptanceMachine.redis_server = loop, None
    run_state_machine_as_test(
        AcceptanceMachine,
        settings=settings(max_examples=examples(30, 150), stateful_step_count=40, deadline=None),
    )


@pytest.mark.timeout(300)
def test_acceptance_in_redis_is_what_the_model_says(
    loop: asyncio.AbstractEventLoop, redis_server: RedisServer
) -> None:
    """The same, through the Lua scripts of a real Redis."""
    AcceptanceMachine.loop, AcceptanceMachine.redis_server = loop, redis_server
    run_state_machine_as_test(
        AcceptanceMachine,
        settings=settings(max_examples=examples(15, 60), stateful_step_count=40, deadline=None),
    )

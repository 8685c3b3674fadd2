"""Replay and audit on the memory broker and ledger: what they find, what they change, and what they leave alone."""

import asyncio
import contextlib
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import Delivery, ParkedQueue
from common.counters import RECOUNTED, Tally
from common.errors import UnknownRun, UsageError
from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import (
    MAX_BODY_BYTES,
    Batch,
    Lane,
    Message,
    Outcome,
    Seqs,
    State,
    decode_batch,
    encode_batch,
)
from gateway.acceptance.recipes import recipe_of_batch, recipe_of_singles
from sender.copies import RetryPolicy
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from tests.waiting import eventually
from upkeep import comparison
from upkeep.audit import audit
from upkeep.comparison import InQueues
from upkeep.findings import RunAudit, of_run
from upkeep.parked import Found, Selection
from upkeep.replay import Limits, Replay, Replayed, Timing, failed

OURS = '{"queue":"sms_queue"}'
NAMES = {ParkedQueue.FAILED: "sms_queue.failed", ParkedQueue.REJECTED: "sms_queue.rejected"}


class Bench:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.ledger = MemoryLedger()

    async def publish(self, run: str, count: int, size: int = 5, recipe: str = OURS) -> None:
        await self.ledger.begin(run, recipe, count, "p")
        await self.ledger.announce(run, 0, count)
        for first in range(0, count, size):
            await self.broker.publish(
                batch_of(run, range(first, min(count, first + size))),
                Lane.URGENT if run == "urgent" else Lane.BULK,
            )
        await self.ledger.confirm(run, count)

    @asynccontextmanager
    async def sending(self, failure_rate: float) -> AsyncIterator[None]:
        provider = SimulatedProvider(Profile(mean_s=0, retry=failure_rate), seed=1)
        stop = asyncio.Event()
        sender = Sender(
            "s", self.broker, self.ledger, provider, slots=20, policy=RetryPolicy(keep_failed=True)
        )
        running = asyncio.create_task(sender.run(stop))
        yield
        stop.set()
        await running

    async def keep_failed(self, run: str, count: int, bodies: Iterable[range]) -> None:
        """A run of which all has failed, and what of it stands on the shelf."""
        await self.ledger.begin(run, OURS, count, "p")
        await self.ledger.announce(run, 0, count)
        await self.ledger.confirm(run, count)
        await self.ledger.settle(run, failed(np.arange(count)))
        for seqs in bodies:
            await self.broker.park(batch_of(run, seqs), Lane.BULK)

    @property
    def published_texts(self) -> list[str]:
        """The texts of what waits in the lanes."""
        bodies = [held.body for lane in Lane for held in self.broker.queues[lane].bodies]
        return [m.text for body in bodies for m in decode_batch(body)[0].messages]

    async def send_all(self, runs: list[str], failure_rate: float = 0) -> None:
        async with self.sending(failure_rate):

            async def settled() -> bool:
                snapshots = [await self.ledger.snapshot(run) for run in runs]
                return all(now.settled == now.published for now in snapshots)

            await eventually(settled)

    async def look(
        self, queue: ParkedQueue, run: str | None = None, limit: int | None = None, **more: Any
    ) -> tuple[Replay, Found]:
        selection = Selection(queue, run, limit)

        def one() -> Replay:
            return Replay(self.broker, self.ledger, selection, queue="sms_queue", producer="replayer", **more)

        found = await one().look((await self.broker.depths())[NAMES[queue]])
        self.close()
        return one(), found

    def close(self) -> None:
        """What closing a connection to RabbitMQ does: all that was in hand is back in its queue, and stays there."""
        for subscription in self.broker.subscriptions:
            subscription.closed = True
        self.broker.disconnect()

    async def replay(self, queue: ParkedQueue, **more: Any) -> list[Replayed]:
        replay, found = await self.look(queue, **more)
        replayed = await replay.carry_out(found)
        self.close()
        return replayed


def batch_of(run: str, seqs: range) -> Batch:
    return Batch(run=run, messages=[Message(seq, f"+9991{seq:08}", f"text {seq}") for seq in seqs])


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_failed_is_sent_as_a_new_run_that_names_the_old_one(bench: Bench) -> None:
    """Each failed message goes out once more, with its number, text and lane; the old run's record stays as it is."""
    await bench.publish("bulk", 40)
    await bench.publish("urgent", 12)
    await bench.send_all(["bulk", "urgent"], failure_rate=0.5)
    old = {run: await bench.ledger.snapshot(run) for run in ("bulk", "urgent")}
    gone_wrong = {(m.to, m.text) for body, _ in bench.broker.failed for m in decode_batch(body)[0].messages}

    replayed = await bench.replay(ParkedQueue.FAILED)

    assert {new.of: new.messages for new in replayed} == {run: now.failed for run, now in old.items()}
    published = {
        lane: [decode_batch(body.body)[0] for body in bench.broker.queues[lane].bodies] for lane in Lane
    }
    for new in replayed:
        lane = Lane.URGENT if new.of == "urgent" else Lane.BULK
        mine = [batch for batch in published[lane] if batch.run == new.run]
        assert [m.seq for batch in mine for m in batch.messages] == list(range(new.messages))
        assert all(batch.attempt == 1 for batch in mine)
        recipe = msgspec.json.decode((await bench.ledger.publication(new.run)).recipe)
        assert recipe == {
            "source": "replay",
            "of": new.of,
            "shelf": "failed",
            "count": new.messages,
            "queue": "sms_queue",
        }
    again = {(m.to, m.text) for batches in published.values() for batch in batches for m in batch.messages}
    assert again == gone_wrong
    assert bench.broker.failed == []
    await bench.send_all([new.run for new in replayed])
    for new in replayed:
        now = await bench.ledger.snapshot(new.run)
        assert (now.published, now.sent, now.total) == (new.messages, new.messages, new.messages)
    for run, before in old.items():
        now = await bench.ledger.snapshot(run)
        assert (now.sent, now.failed) == (before.sent, before.failed)


async def test_looking_changes_nothing(bench: Bench) -> None:
    """A dry run finds all that a replay would publish, and leaves shelf, queues and ledger as they are."""
    await bench.publish("bulk", 40)
    await bench.send_all(["bulk"], failure_rate=1)
    before = sorted(bench.broker.failed)
    _, found = await bench.look(ParkedQueue.FAILED)
    bench.broker.disconnect()
    assert found.messages == 40
    assert sorted(bench.broker.failed) == before
    assert await bench.ledger.runs() == ["bulk"]


async def test_run_and_limit_choose_what_is_replayed(bench: Bench) -> None:
    """What is of another run, or over the limit, stays on the shelf for another time."""
    await bench.publish("first", 20)
    await bench.publish("second", 20)
    await bench.send_all(["first", "second"], failure_rate=1)
    (new,) = await bench.replay(ParkedQueue.FAILED, run="second", limit=12)
    assert new.of == "second"
    assert 0 < new.messages <= 12
    left = [m for body, _ in bench.broker.failed for m in decode_batch(body)[0].messages]
    assert len(left) == 40 - new.messages
    _, found = await bench.look(ParkedQueue.FAILED, limit=0)
    assert (found.messages, found.over_limit) == (0, len(left))
    assert found.first_over_limit > 0


async def test_a_copy_whose_message_was_sent_after_all_is_dropped(bench: Bench) -> None:
    """A sender can die after it kept a message and before it settled it; another one may then succeed."""
    await bench.publish("bulk", 10)
    await bench.broker.park(batch_of("bulk", range(4)), Lane.BULK)
    await bench.send_all(["bulk"])
    assert await bench.replay(ParkedQueue.FAILED) == []
    assert bench.broker.failed == []


async def test_a_canceled_message_is_not_replayed(bench: Bench) -> None:
    """Its copy was kept, it came back to queued, and then it was canceled: the copy is dropped."""
    await bench.publish("bulk", 4)
    await bench.broker.park(batch_of("bulk", range(4)), Lane.BULK)
    await bench.ledger.cancel("bulk", np.arange(4))
    assert await bench.replay(ParkedQueue.FAILED) == []
    assert bench.broker.failed == []


async def test_a_message_that_was_kept_twice_is_replayed_once(bench: Bench) -> None:
    """So it is also where the two bodies overlap in part."""
    await bench.publish("bulk", 10, size=10)
    await bench.broker.park(batch_of("bulk", range(4)), Lane.BULK)
    await bench.send_all(["bulk"], failure_rate=1)
    (new,) = await bench.replay(ParkedQueue.FAILED)
    assert new.messages == 10
    assert bench.broker.failed == []


async def test_a_run_that_is_gone_from_the_ledger_is_replayed_as_it_stands(bench: Bench) -> None:
    """The shelf outlives RUN_TTL; nothing is known against its messages."""
    await bench.broker.park(batch_of("gone", range(3)), Lane.BULK)
    (new,) = await bench.replay(ParkedQueue.FAILED)
    assert (new.of, new.messages) == ("gone", 3)


async def test_a_replay_that_dies_before_its_acks_loses_nothing(bench: Bench) -> None:
    """What it had published it publishes again, under yet another run; what it had not is still on the shelf."""
    await bench.publish("bulk", 30)
    await bench.send_all(["bulk"], failure_rate=1)
    replay, found = await bench.look(ParkedQueue.FAILED)
    confirm = bench.ledger.confirm

    async def dies(run: str, upto: int) -> None:
        raise asyncio.CancelledError

    bench.ledger.confirm = dies  # type: ignore[method-assign]
    with contextlib.suppress(asyncio.CancelledError):
        await replay.carry_out(found)
    bench.ledger.confirm = confirm  # type: ignore[method-assign]
    bench.broker.disconnect()
    assert sum(len(decode_batch(body)[0].messages) for body, _ in bench.broker.failed) == 30
    (new,) = await bench.replay(ParkedQueue.FAILED)
    runs = await bench.ledger.runs()
    await bench.send_all(runs)
    assert new.messages == 30
    result = await eventually_audited(bench)
    assert result.right


async def test_what_was_rejected_and_can_be_decoded_is_replayed(bench: Bench) -> None:
    """Its old run ends too: there the messages have failed. What is no batch stays, with its reason."""
    await bench.ledger.begin("old", "", 6, "p")
    await bench.ledger.announce("old", 0, 6)
    await bench.ledger.confirm("old", 6)
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    bench.broker.publish_raw(b"{", Lane.BULK)
    await bench.broker.publish(batch_of("old", range(6)), Lane.BULK)
    for delivery in await subscription.take():
        await delivery.reject("by mistake")
    await subscription.close()
    await bench.ledger.claim("old", np.array([0, 1]), redelivered=False)
    sent = np.array([1])
    outcomes = failed(sent)
    outcomes.outcomes[:] = Outcome.SENT
    await bench.ledger.settle("old", outcomes)

    replay, found = await bench.look(ParkedQueue.REJECTED)
    assert found.unusable == {"by mistake": 1}
    (new,) = await replay.carry_out(found)
    bench.broker.disconnect()

    assert (new.of, new.messages) == ("old", 5)
    now = await bench.ledger.snapshot("old")
    assert (now.sent, now.failed, now.sending, now.queued) == (1, 5, 0, 0)
    assert [body for body, _ in bench.broker.rejected] == [b"{"]


async def eventually_audited(bench: Bench, **more: Any) -> Any:
    """An audit at rest, which looks at the queues again at once."""
    bench.ledger._senders.clear()
    timing = comparison.Timing(moving_s=0, dead_letter_s=0.05)
    return await audit(bench.broker, bench.ledger, "sms_queue", timing=timing, **more)


async def test_what_a_policy_has_dead_lettered_is_not_lost(bench: Bench) -> None:
    """RabbitMQ itself moves bodies to the rejected queue: the audit says where they are, and no repair fails them."""
    await bench.publish("moved", 20)
    lane = bench.broker.queues[Lane.BULK]
    for _ in range(3):
        bench.broker.put(ParkedQueue.REJECTED, lane.pop())
    lane.pop()  # and one body is really lost
    for repair in (False, True):
        result = await eventually_audited(bench, repair=repair)
        (moved,) = result.runs
        assert (moved.rejected, moved.missing, moved.repaired) == (15, 5, 5 * repair)
        assert result.rejected_bodies == 3
        assert "15 are in sms_queue.rejected" in of_run(moved)
        assert "smsim replay --rejected" in of_run(moved)
    assert (await bench.ledger.snapshot("moved")).failed == 5
    replay, found = await bench.look(ParkedQueue.REJECTED)
    (new,) = await replay.carry_out(found)
    assert (new.of, new.messages) == ("moved", 15)
    result = await eventually_audited(bench)
    assert result.right
    assert {run.run: run.rejected for run in result.runs} == {"moved": 0, new.run: 0}


async def test_an_audit_of_a_good_record(bench: Bench) -> None:
    """Settled and waiting messages alike are where the record says."""
    await bench.publish("done", 40)
    await bench.send_all(["done"], failure_rate=0.3)
    await bench.publish("waits", 25)
    await bench.broker.publish(batch_of("stranger", range(3)), Lane.BULK)
    result = await eventually_audited(bench)
    assert result.right
    assert result.not_at_rest == ""
    assert {run.run: (run.published, run.queued, run.missing) for run in result.runs} == {
        "done": (40, 0, 0),
        "waits": (25, 25, 0),
    }
    assert result.bodies_in_queues == 6
    assert sum(len(queue.bodies) for queue in bench.broker.queues.values()) == 6 + len(bench.broker.failed)


async def test_an_audit_finds_a_counter_that_is_off(bench: Bench) -> None:
    """Each counter that can be recounted, of a run and of all runs."""
    await bench.publish("bulk", 20)
    await bench.send_all(["bulk"], failure_rate=0.5)
    run, all_runs = bench.ledger._runs["bulk"].totals, bench.ledger._all
    for name in RECOUNTED:
        one_more, one_less = Tally(**{name: 1}), Tally(**{name: -1})
        run.count(one_more)
        result = await eventually_audited(bench)
        assert not result.right
        assert list(result.runs[0].differences) == [name]
        run.count(one_less)
        all_runs.count(one_more)
        result = await eventually_audited(bench)
        assert not result.right
        assert name in result.totals
        all_runs.count(one_less)
    assert (await eventually_audited(bench)).right


async def test_repair_settles_what_is_in_no_queue(bench: Bench) -> None:
    """Only that: what waits in a lane, or for another attempt, stays; queued and sending messages are found alike."""
    await bench.publish("bulk", 30, size=10)
    subscription = await bench.broker.subscribe(Lane.BULK, 1)
    (lost,) = await subscription.take()
    await bench.ledger.claim("bulk", np.arange(4), redelivered=False)
    lost.ack()
    (later,) = await subscription.take()
    await bench.broker.publish(batch_of("bulk", range(10, 20)), Lane.BULK, after=100)
    later.ack()
    await subscription.close()
    bench.broker.disconnect()

    result = await eventually_audited(bench)
    assert not result.right
    assert (result.runs[0].missing, result.runs[0].repaired) == (10, 0)
    result = await eventually_audited(bench, repair=True)
    assert result.right
    assert (result.runs[0].missing, result.runs[0].repaired) == (10, 10)
    states = await bench.ledger.states("bulk", np.arange(30))
    assert states.tolist() == [State.FAILED] * 10 + [State.QUEUED] * 20
    assert (await eventually_audited(bench)).runs[0].missing == 0


async def test_a_run_to_be_resumed_is_given_up_only_by_name(bench: Bench) -> None:
    """Its producer died with messages announced that are in no queue: resuming would publish them."""
    recipe = '{"source":"random","count":50,"batch_size":5,"seed":1,"queue":"sms_queue"}'
    await bench.ledger.begin("broke", recipe, 50, "p")
    await bench.ledger.announce("broke", 0, 30)
    await bench.broker.publish(batch_of("broke", range(20)), Lane.BULK)
    await bench.ledger.confirm("broke", 20)
    await bench.ledger.leave("broke", "p")
    await bench.publish("other", 5)

    result = await eventually_audited(bench, repair=True)
    run = next(r for r in result.runs if r.run == "broke")
    assert result.right
    assert (run.unfinished, run.missing, run.repaired) == (True, 0, 0)
    result = await eventually_audited(bench, run="broke", repair=True)
    assert (result.runs[0].repaired, result.runs[0].unfinished) == (10, False)
    await bench.send_all(["broke", "other"])
    now = await bench.ledger.snapshot("broke")
    assert (now.published, now.total, now.sent, now.failed) == (30, 30, 20, 10)


@pytest.mark.parametrize(("confirmed", "repaired"), [(20, 0), (30, 10)])
async def test_a_gateways_session_is_repaired_where_no_gateway_can_finish_it(
    bench: Bench, confirmed: int, repaired: int
) -> None:
    """Its recipe names the queue, so its messages can be placed; what was never confirmed waits for a gateway."""
    await bench.ledger.begin("session", recipe_of_singles(Lane.BULK, "sms_queue"), 0, "g")
    await bench.ledger.begin("elsewhere", recipe_of_singles(Lane.BULK, "theirs"), 0, "g")
    for run in ("session", "elsewhere"):
        await bench.ledger.announce(run, 0, 30)
        await bench.ledger.confirm(run, confirmed)
        await bench.ledger.leave(run, "g")
    await bench.broker.publish(batch_of("session", range(20)), Lane.BULK)

    result = await eventually_audited(bench, repair=True)
    session, elsewhere = result.runs
    assert (session.queue, session.unfinished, session.repaired) == ("sms_queue", confirmed < 30, repaired)
    assert (elsewhere.queue, elsewhere.repaired) == ("theirs", 0)
    assert (await bench.ledger.snapshot("session")).failed == repaired
    assert (await bench.ledger.snapshot("elsewhere")).queued == 30


@pytest.mark.parametrize(
    ("recipe", "total"),
    [(recipe_of_singles(Lane.BULK, "sms_queue"), 0), (recipe_of_batch(5, Lane.BULK, "sms_queue"), 5)],
    ids=["singles", "batch"],
)
async def test_a_gateways_run_is_given_up_by_name(bench: Bench, recipe: str, total: int) -> None:
    """As the audit says, also where nobody knows how many messages it would have had."""
    await bench.ledger.begin("theirs", recipe, total, "g")
    await bench.ledger.announce("theirs", 0, 3)
    await bench.ledger.confirm("theirs", 1)
    await bench.ledger.leave("theirs", "g")

    (run,) = (await eventually_audited(bench, repair=True)).runs
    assert (run.unfinished, run.by_gateway, run.repaired) == (True, True, 1)
    (run,) = (await eventually_audited(bench, run="theirs", repair=True)).runs
    assert (run.unfinished, run.repaired) == (False, 2)
    (run,) = (await eventually_audited(bench)).runs
    assert (run.unfinished, run.missing, run.failed) == (False, 0, 3)
    assert await bench.ledger.open_runs() == []


def test_what_an_unfinished_run_needs_is_said() -> None:
    """A producer can go on with its own runs only; a gateway's are finished by a gateway."""
    give_up = "or give it up with smsim audit --repair --run broke"
    said = of_run(RunAudit("broke", unfinished=True))
    assert "producer.py --resume broke" in said
    assert said.endswith(give_up)
    said = of_run(RunAudit("broke", unfinished=True, by_gateway=True))
    assert "a running gateway finishes it" in said
    assert "--resume" not in said
    assert said.endswith(give_up)


async def test_a_replay_that_broke_off_is_closed_by_repair(bench: Bench) -> None:
    """What can't be made again is settled failed, so that every run ends."""
    recipe = '{"source":"replay","of":"old","shelf":"failed","count":50,"queue":"sms_queue"}'
    await bench.ledger.begin("again", recipe, 50, "p")
    await bench.ledger.announce("again", 0, 30)
    await bench.ledger.leave("again", "p")
    result = await eventually_audited(bench, repair=True)
    assert (result.runs[0].repaired, result.runs[0].unfinished) == (30, False)
    now = await bench.ledger.snapshot("again")
    assert (now.total, now.failed) == (30, 30)


async def test_nothing_is_repaired_while_anybody_works(bench: Bench) -> None:
    """What a sender or a producer has in hand is in no queue, and yet not lost."""
    await bench.publish("bulk", 5)
    await bench.ledger.heartbeat("s", 1, 0)
    with pytest.raises(UsageError, match="1 senders are alive"):
        await audit(bench.broker, bench.ledger, "sms_queue", repair=True)
    result = await audit(bench.broker, bench.ledger, "sms_queue")
    assert "senders" in result.not_at_rest
    assert result.right
    await bench.ledger.deregister("s")
    subscription = await bench.broker.subscribe(Lane.BULK, 1)
    with pytest.raises(UsageError, match="1 consumers"):
        await audit(bench.broker, bench.ledger, "sms_queue", repair=True)
    await subscription.close()
    await bench.ledger.begin("begun", "", 10, "p")
    with pytest.raises(UsageError, match="run begun is being published"):
        await audit(bench.broker, bench.ledger, "sms_queue", repair=True)


async def test_an_unknown_run_is_said_so(bench: Bench) -> None:
    """A misspelt name is no good record."""
    with pytest.raises(UnknownRun, match="nosuch"):
        await audit(bench.broker, bench.ledger, "sms_queue", run="nosuch")


class Killed(BaseException):
    """The process ends here."""


async def test_what_was_replayed_is_known_to_the_next_replay(bench: Bench) -> None:
    """A message that was kept twice goes out once, also where --limit leaves its second copy to another replay."""
    await bench.keep_failed("bulk", 3, [range(1, 2), range(1, 3)])
    assert [new.messages for new in await bench.replay(ParkedQueue.FAILED, limit=1)] == [1]
    assert [new.messages for new in await bench.replay(ParkedQueue.FAILED, limit=2)] == [1]
    assert bench.published_texts == ["text 1", "text 2"]
    assert bench.broker.failed == []


@pytest.mark.parametrize(("at", "left", "again"), [(40, 55, 15), (45, 5, 5)])
async def test_a_replay_that_dies_leaves_no_more_than_a_window(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, at: int, left: int, again: int
) -> None:
    """What it is done with has left the shelf, spent copies too, and what it marked is not published again."""
    twice = [range(k, k + 1) for k in range(40)] * 2
    await bench.keep_failed("bulk", 45, [*twice, *(range(k, k + 1) for k in range(40, 45))])
    replay, found = await bench.look(ParkedQueue.FAILED, limits=Limits(window=10))
    confirm = bench.ledger.confirm

    async def dies(run: str, upto: int) -> None:
        if upto == at:
            raise Killed
        await confirm(run, upto)

    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "confirm", dies)
        with pytest.raises(Killed):
            await replay.carry_out(found)
    bench.close()
    assert len(bench.broker.failed) == left

    (new,) = await bench.replay(ParkedQueue.FAILED)
    assert new.messages == again
    texts = bench.published_texts
    assert (len(texts), len(set(texts))) == (at + again, 45)


async def test_the_run_of_a_replay_that_was_stopped_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had announced and could not publish has failed in it, and is replayed another time."""
    await bench.keep_failed("bulk", 20, [range(k, k + 1) for k in range(20)])
    replay, found = await bench.look(ParkedQueue.FAILED)
    asked, publish = 0, bench.broker.publish

    def stuck_after_five(batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        nonlocal asked
        asked += 1
        return publish(batch, lane, after) if asked <= 5 else asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patched:
        patched.setattr(bench.broker, "publish", stuck_after_five)
        stopped = asyncio.create_task(replay.carry_out(found))
        await eventually(lambda: asked == 20)
        stopped.cancel()
        await asyncio.wait([stopped])
    bench.close()

    _, new = await bench.ledger.runs()
    now = await bench.ledger.snapshot(new)
    assert (now.published, now.queued, now.failed, now.total) == (20, 5, 15, 20)
    (again,) = await bench.replay(ParkedQueue.FAILED)
    await bench.send_all([new, again.run])
    assert again.messages == 20
    assert (await bench.ledger.snapshot()).queued == 0


class InHand:
    """A delivery that can be missed when it is gone."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)


class LetGo:
    """A subscription that knows how many of the deliveries it gave are still in somebody's hands."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription
        self.in_hand: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    async def take(self) -> list[Any]:
        taken = [InHand(delivery) for delivery in await self._subscription.take()]
        self.in_hand.update(taken)
        self.most = max(self.most, len(self.in_hand))
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)


@pytest.mark.parametrize("limit", [None, 10])
async def test_a_replay_has_few_bodies_in_hand(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Neither looking nor replaying keeps what was looked at: a shelf may be larger than the memory."""
    await bench.keep_failed("bulk", 500, [range(k, k + 1) for k in range(500)])
    subscriptions: list[LetGo] = []
    subscribe = bench.broker.subscribe

    async def counted(queue: Lane | ParkedQueue, prefetch: int) -> Any:
        subscriptions.append(LetGo(await subscribe(queue, prefetch)))
        return subscriptions[-1]

    monkeypatch.setattr(bench.broker, "subscribe", counted)
    (new,) = await bench.replay(ParkedQueue.FAILED, limit=limit, limits=Limits(window=10))
    assert new.messages == (limit or 500)
    looking, replaying = subscriptions
    assert 0 < looking.most <= 50
    assert 0 < replaying.most <= 50


async def test_what_is_replayed_fits_a_body(bench: Bench) -> None:
    """A new run's name and seqs may be longer than the old ones: a body at the limit is split."""
    await bench.keep_failed("a", 2000, [range(1000, 2000)])
    short = encode_batch(Batch(run="a", messages=[Message(k, "+9991234", "") for k in range(1000)]))
    each, more = divmod(MAX_BODY_BYTES - len(short), 1000)
    full = [Message(k, "+9991234", "x" * (each + (k < more))) for k in range(1000)]
    await bench.broker.park(Batch(run="a", messages=full), Lane.BULK)
    assert len(bench.broker.failed[-1][0]) == MAX_BODY_BYTES
    async with asyncio.timeout(60):
        (new,) = await bench.replay(ParkedQueue.FAILED)
    assert new.messages == 2000
    assert bench.published_texts == [f"text {k}" for k in range(1000, 2000)] + [m.text for m in full]
    assert bench.broker.failed == []


async def test_a_replay_of_what_was_rejected_may_die_between_any_two_steps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it could settle the old messages it has not marked them either: the next one does both."""
    await bench.publish("old", 3)
    subscription = await bench.broker.subscribe(Lane.BULK, 1)
    for delivery in await subscription.take():
        await delivery.reject("delivery limit")
    replay, found = await bench.look(ParkedQueue.REJECTED)

    async def dies(run: str, *_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "settle", dies)
        with pytest.raises(Killed):
            await replay.carry_out(found)
    bench.close()
    await bench.replay(ParkedQueue.REJECTED)
    now = await bench.ledger.snapshot("old")
    assert (now.queued, now.failed) == (0, 3)
    assert bench.broker.rejected == []


async def test_no_repair_while_a_replay_waits_for_a_confirm(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long RabbitMQ delays the publishes, the replay's heartbeat keeps its run from being given up."""
    await bench.keep_failed("bulk", 3, [range(3)])
    replay, found = await bench.look(ParkedQueue.FAILED, timing=Timing(heartbeat_s=0.01))
    publish, asked, free = bench.broker.publish, asyncio.Event(), asyncio.Event()

    async def publish_later(batch: Batch, lane: Lane) -> None:
        asked.set()
        await free.wait()
        await publish(batch, lane)

    monkeypatch.setattr(bench.broker, "publish", lambda *batch: asyncio.ensure_future(publish_later(*batch)))
    replaying = asyncio.create_task(replay.carry_out(found))
    await asked.wait()
    _, new = await bench.ledger.runs()
    bench.ledger._runs[new].producer_seen_us = 0  # as though it had been silent for years

    async def is_heard_of() -> bool:
        return (await bench.ledger.publication(new)).publishing

    await eventually(is_heard_of)
    with pytest.raises(UsageError, match=f"run {new} is being published"):
        await audit(bench.broker, bench.ledger, "sms_queue", repair=True)
    free.set()
    await replaying
    bench.close()
    await bench.send_all([new])
    assert (await bench.ledger.snapshot(new)).sent == 3


async def test_an_audit_beside_working_senders_does_not_add_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run goes on while another is recounted, so the sum of the runs is no figure of any moment."""
    await bench.publish("first", 5)
    await bench.publish("second", 5)
    await bench.ledger.heartbeat("s", 1, 1)
    recount = bench.ledger.recount

    async def meanwhile_the_first_goes_on(run: str) -> dict[str, int]:
        if run == "second":
            await bench.ledger.claim("first", np.array([0]), redelivered=False)
        return await recount(run)

    monkeypatch.setattr(bench.ledger, "recount", meanwhile_the_first_goes_on)
    result = await audit(bench.broker, bench.ledger, "sms_queue")
    assert result.right, result


async def test_a_run_in_motion_has_no_difference(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message fails for now before the recount, and another is claimed after it: all counters but one agree."""
    await bench.publish("bulk", 20)
    await bench.ledger.heartbeat("s", 1, 1)
    await bench.ledger.claim("bulk", np.array([0]), redelivered=False)
    recount, at = bench.ledger.recount, 0

    async def between_two_claims(run: str) -> dict[str, int]:
        nonlocal at
        await bench.ledger.settle(run, to_be_retried(np.array([at])))
        counted = await recount(run)
        at += 1
        await bench.ledger.claim(run, np.array([at]), redelivered=False)
        return counted

    monkeypatch.setattr(bench.ledger, "recount", between_two_claims)
    result = await audit(bench.broker, bench.ledger, "sms_queue", run="bulk")
    assert (result.right, result.runs[0].moving) == (True, True)


def to_be_retried(seqs: Seqs) -> Outcomes:
    return Outcomes(seqs, np.full(seqs.size, Outcome.RETRY, np.uint8), np.zeros(seqs.size, np.int64))


@pytest.mark.parametrize(("step", "time"), [("publication", 1), ("recount", 1), ("publication", 2)])
async def test_a_run_that_expires_meanwhile_is_no_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, time: int
) -> None:
    """It was settled, so there is nothing to say of it; only one that was named must be there."""
    await bench.keep_failed("stays", 1, [])
    await bench.keep_failed("goes", 1, [])
    carry_out, times = getattr(bench.ledger, step), 0

    async def and_it_goes(run: str) -> Any:
        nonlocal times
        done = await carry_out(run)
        times += run == "stays"
        if times == time and "goes" in await bench.ledger.runs():
            await bench.ledger.forget("goes")
        return done

    monkeypatch.setattr(bench.ledger, step, and_it_goes)
    result = await audit(bench.broker, bench.ledger, "sms_queue")
    assert result.right
    assert result.runs[0].run == "stays"


async def test_a_sender_that_starts_during_the_look_keeps_what_it_took(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has in hand is in no queue: --repair asks again whether all is at rest before it changes anything."""
    await bench.publish("bulk", 5)
    peek = bench.broker.peek

    async def meanwhile_one_starts() -> AsyncIterator[tuple[str, bytes]]:
        await bench.ledger.heartbeat("new", 10, 5)
        for delivery in await (await bench.broker.subscribe(Lane.BULK, 10)).take():
            await bench.ledger.claim("bulk", decode_batch(delivery.body)[1], redelivered=False)
        monkeypatch.setattr(bench.broker, "peek", peek)
        async for found in peek():
            yield found

    monkeypatch.setattr(bench.broker, "peek", meanwhile_one_starts)
    with pytest.raises(UsageError, match=r"1 senders are alive.*nothing was changed"):
        await audit(bench.broker, bench.ledger, "sms_queue", repair=True)
    assert (await bench.ledger.states("bulk", np.arange(5))).tolist() == [State.SENDING] * 5


@pytest.mark.parametrize("by_name", [False, True])
async def test_runs_of_another_queue_are_left_alone(bench: Bench, by_name: bool) -> None:
    """With another QUEUE_NAME, the right one of somebody or a mistake, nothing of theirs is in the queues looked at."""
    recipe = '{"source":"random","count":50,"batch_size":5,"seed":1,"queue":"another"}'
    await bench.ledger.begin("theirs", recipe, 50, "p")
    await bench.ledger.announce("theirs", 0, 30)
    await bench.ledger.confirm("theirs", 20)
    await bench.ledger.leave("theirs", "p")
    before = await bench.ledger.publication("theirs")
    with contextlib.suppress(UsageError):  # a refusal is as good
        result = await eventually_audited(bench, run="theirs" if by_name else None, repair=True)
        assert (result.right, result.runs[0].missing, result.runs[0].repaired) == (True, 0, 0)
    assert await bench.ledger.publication("theirs") == before
    assert (await bench.ledger.snapshot("theirs")).queued == 30


async def test_a_run_whose_queue_is_not_known_is_repaired_only_by_name(bench: Bench) -> None:
    """What a stranger published may wait in another queue: the audit says what it misses, and leaves it."""
    await bench.publish("strange", 5, recipe="")
    bench.broker.queues[Lane.BULK].pop()
    result = await eventually_audited(bench, repair=True)
    assert (result.right, result.runs[0].missing, result.runs[0].repaired) == (False, 5, 0)
    result = await eventually_audited(bench, run="strange", repair=True)
    assert (result.right, result.runs[0].repaired) == (True, 5)


async def test_an_audit_remembers_few_bytes_of_a_small_run() -> None:
    """A gateway may make a run for each of its sessions: each takes as much as its messages, not a whole piece."""
    bodies = [encode_batch(batch_of(f"run-{k}", range(1))) for k in range(2000)]
    found = InQueues()
    tracemalloc.start()
    try:
        for body in bodies:
            found.add(body)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2000 * 2000
    assert found.seen.has("run-7", np.arange(2)).tolist() == [True, False]


async def test_repair_waits_for_retries_that_no_queue_shows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ tries again to move a retry whose lane was away: what has come by then is not lost."""
    assert comparison.TIMING.dead_letter_s > 180, "RabbitMQ's dead_letter_worker_publisher_confirm_timeout"
    await bench.ledger.begin("bulk", OURS, 5, "p")
    await bench.ledger.announce("bulk", 0, 5)
    await bench.ledger.confirm("bulk", 5)
    await bench.ledger.claim("bulk", np.arange(5), redelivered=False)
    await bench.ledger.settle("bulk", to_be_retried(np.arange(5)))
    peek, looks = bench.broker.peek, 0

    async def comes_after_the_second_look() -> AsyncIterator[tuple[str, bytes]]:
        nonlocal looks
        looks += 1
        async for found in peek():
            yield found
        if looks == 2:
            retry = batch_of("bulk", range(5)), Lane.BULK
            asyncio.get_running_loop().call_later(0.02, bench.broker.publish, *retry)

    monkeypatch.setattr(bench.broker, "peek", comes_after_the_second_look)
    result = await eventually_audited(bench, repair=True)
    assert (result.right, result.runs[0].missing, result.runs[0].repaired) == (True, 0, 0)
    assert (await bench.ledger.snapshot("bulk")).queued == 5

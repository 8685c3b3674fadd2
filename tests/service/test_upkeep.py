"""Replay and audit on the memory broker and ledger: what they find, what they change, and what they leave alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import Shelf
from common.errors import UnknownRun, UsageError
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message, Outcome, State, decode_batch
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from tests.waiting import eventually
from upkeep.audit import audit
from upkeep.replay import Found, Replay, Replayed, failed

OURS = '{"queue":"sms_queue"}'
SHELF_QUEUES = {Shelf.FAILED: "sms_queue.failed", Shelf.REJECTED: "sms_queue.rejected"}


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
        sender = Sender("s", self.broker, self.ledger, provider, 20, keep_failed=True)
        running = asyncio.create_task(sender.run(stop))
        yield
        stop.set()
        await running

    async def send_all(self, runs: list[str], failure_rate: float = 0) -> None:
        async with self.sending(failure_rate):

            async def settled() -> bool:
                snapshots = [await self.ledger.snapshot(run) for run in runs]
                return all(now.settled == now.published for now in snapshots)

            await eventually(settled)

    async def look(self, shelf: Shelf, **more: Any) -> tuple[Replay, Found]:
        def one() -> Replay:
            return Replay(self.broker, self.ledger, shelf, "sms_queue", "replayer", **more)

        found = await one().look((await self.broker.depths())[SHELF_QUEUES[shelf]])
        self.close()
        return one(), found

    def close(self) -> None:
        """What closing a connection to RabbitMQ does: all that was in hand is back in its queue, and no one takes it."""
        for subscription in self.broker._subscriptions:
            subscription.closed = True
        self.broker.disconnect()

    async def replay(self, shelf: Shelf, **more: Any) -> list[Replayed]:
        replay, found = await self.look(shelf, **more)
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

    replayed = await bench.replay(Shelf.FAILED)

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
    _, found = await bench.look(Shelf.FAILED)
    bench.broker.disconnect()
    assert found.messages == 40
    assert sorted(bench.broker.failed) == before
    assert await bench.ledger.runs() == ["bulk"]


async def test_run_and_limit_choose_what_is_replayed(bench: Bench) -> None:
    """What is of another run, or over the limit, stays on the shelf for another time."""
    await bench.publish("first", 20)
    await bench.publish("second", 20)
    await bench.send_all(["first", "second"], failure_rate=1)
    (new,) = await bench.replay(Shelf.FAILED, run="second", limit=12)
    assert new.of == "second"
    assert 0 < new.messages <= 12
    left = [m for body, _ in bench.broker.failed for m in decode_batch(body)[0].messages]
    assert len(left) == 40 - new.messages
    _, found = await bench.look(Shelf.FAILED, limit=0)
    assert (found.messages, found.over_limit) == (0, len(left))
    assert found.first_over_limit > 0


async def test_a_copy_whose_message_was_sent_after_all_is_dropped(bench: Bench) -> None:
    """A sender can die after it kept a message and before it settled it; another one may then succeed."""
    await bench.publish("bulk", 10)
    await bench.broker.keep(batch_of("bulk", range(4)), Lane.BULK)
    await bench.send_all(["bulk"])
    assert await bench.replay(Shelf.FAILED) == []
    assert bench.broker.failed == []


async def test_a_message_that_was_kept_twice_is_replayed_once(bench: Bench) -> None:
    """So it is also where the two bodies overlap in part."""
    await bench.publish("bulk", 10, size=10)
    await bench.broker.keep(batch_of("bulk", range(4)), Lane.BULK)
    await bench.send_all(["bulk"], failure_rate=1)
    (new,) = await bench.replay(Shelf.FAILED)
    assert new.messages == 10
    assert bench.broker.failed == []


async def test_a_run_that_is_gone_from_the_ledger_is_replayed_as_it_stands(bench: Bench) -> None:
    """The shelf outlives RUN_TTL; nothing is known against its messages."""
    await bench.broker.keep(batch_of("gone", range(3)), Lane.BULK)
    (new,) = await bench.replay(Shelf.FAILED)
    assert (new.of, new.messages) == ("gone", 3)


async def test_a_replay_that_dies_before_its_acks_loses_nothing(bench: Bench) -> None:
    """What it had published it publishes again, under yet another run; what it had not is still on the shelf."""
    await bench.publish("bulk", 30)
    await bench.send_all(["bulk"], failure_rate=1)
    replay, found = await bench.look(Shelf.FAILED)
    confirm = bench.ledger.confirm

    async def dies(run: str, upto: int) -> None:
        raise asyncio.CancelledError

    bench.ledger.confirm = dies  # type: ignore[method-assign]
    with contextlib.suppress(asyncio.CancelledError):
        await replay.carry_out(found)
    bench.ledger.confirm = confirm  # type: ignore[method-assign]
    bench.broker.disconnect()
    assert sum(len(decode_batch(body)[0].messages) for body, _ in bench.broker.failed) == 30
    (new,) = await bench.replay(Shelf.FAILED)
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

    replay, found = await bench.look(Shelf.REJECTED)
    assert found.unusable == {"by mistake": 1}
    (new,) = await replay.carry_out(found)
    bench.broker.disconnect()

    assert (new.of, new.messages) == ("old", 5)
    now = await bench.ledger.snapshot("old")
    assert (now.sent, now.failed, now.sending, now.queued) == (1, 5, 0, 0)
    assert [body for body, _ in bench.broker.rejected] == [b"{"]


async def eventually_audited(bench: Bench, **more: Any) -> Any:
    """An audit at rest."""
    bench.ledger._senders.clear()
    return await audit(bench.broker, bench.ledger, "sms_queue", **more)


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
    """Each of the four counters, of a run and of all runs."""
    await bench.publish("bulk", 20)
    await bench.send_all(["bulk"], failure_rate=0.5)
    for name in ("published", "sending", "sent", "failed"):
        tally = bench.ledger._runs["bulk"].tally
        setattr(tally, name, getattr(tally, name) + 1)
        result = await eventually_audited(bench)
        assert not result.right
        assert list(result.runs[0].differences) == [name]
        setattr(tally, name, getattr(tally, name) - 1)
        setattr(bench.ledger._all, name, getattr(bench.ledger._all, name) + 1)
        result = await eventually_audited(bench)
        assert not result.right
        assert name in result.totals
        setattr(bench.ledger._all, name, getattr(bench.ledger._all, name) - 1)
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
    await bench.ledger.goodbye("s")
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

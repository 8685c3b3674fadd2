"""The ledger's promises (common/ledger/port.py), held by the memory ledger and by Redis."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from common.errors import RunBusy, RunExists, UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger, Outcomes, Snapshot, Standing
from common.messages import Outcome
from tests.contract.benches import redis_ledger

NEW, AMBIGUOUS, SETTLED, DUPLICATE = Standing.NEW, Standing.AMBIGUOUS, Standing.SETTLED, Standing.DUPLICATE
SENT, FAILED, RETRY = Outcome.SENT, Outcome.FAILED, Outcome.RETRY
RUN = "run-1"


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    ledger = await redis_ledger(request.getfixturevalue("redis_server"))
    yield ledger
    await ledger.close()


def seqs(*of: int) -> "np.typing.NDArray[np.int64]":
    return np.array(of, np.int64)


def outcomes(of: dict[int, Outcome], time_us: int = 1000) -> Outcomes:
    return Outcomes(
        np.array(list(of), np.int64),
        np.array(list(of.values()), np.uint8),
        np.full(len(of), time_us, np.int64),
    )


async def begun(ledger: Ledger, count: int, run: str = RUN) -> None:
    await ledger.begin(run, "{}", count, "p")
    await ledger.announce(run, 0, count)


def counters(snapshot: Snapshot) -> tuple[int, int, int, int, int]:
    return snapshot.published, snapshot.queued, snapshot.sending, snapshot.sent, snapshot.failed


async def test_a_message_goes_from_queued_over_sending_to_sent_or_failed(ledger: Ledger) -> None:
    """The counters follow each step, for the run and for all runs together."""
    await begun(ledger, 3)
    for run in (RUN, None):
        assert counters(await ledger.snapshot(run)) == (3, 3, 0, 0, 0)
    assert (await ledger.claim(RUN, seqs(0, 1), False)).tolist() == [NEW, NEW]
    for run in (RUN, None):
        assert counters(await ledger.snapshot(run)) == (3, 1, 2, 0, 0)
    await ledger.settle(RUN, outcomes({0: SENT, 1: FAILED}, 2000))
    for run in (RUN, None):
        snapshot = await ledger.snapshot(run)
        assert counters(snapshot) == (3, 1, 0, 1, 1)
        assert snapshot.total_time_us == 4000
        assert sum(snapshot.latency.values()) == 2


async def test_a_run_has_one_name(ledger: Ledger) -> None:
    """A second producer can't take it; the first one may ask again, since an answer can be lost."""
    await ledger.begin(RUN, "recipe", 5, "p1")
    await ledger.begin(RUN, "recipe", 5, "p1")
    with pytest.raises(RunExists):
        await ledger.begin(RUN, "recipe", 5, "p2")


async def test_an_announced_range_counts_once(ledger: Ledger) -> None:
    """Repeated and overlapping announcements add only what is new."""
    await ledger.begin(RUN, "", 100, "p")
    for first, count in ((0, 10), (0, 10), (5, 10), (15, 5), (3, 2)):
        await ledger.announce(RUN, first, count)
    assert (await ledger.snapshot(RUN)).published == 20


async def test_an_announcement_leaves_no_gap(ledger: Ledger) -> None:
    """Seqs that nobody announced can't be skipped: that is a bug of the caller's, and changes nothing."""
    await ledger.begin(RUN, "", 100, "p")
    await ledger.announce(RUN, 0, 10)
    with pytest.raises(ValueError, match="10 to 11"):
        await ledger.announce(RUN, 12, 5)
    assert (await ledger.snapshot(RUN)).published == 10


async def test_a_claim_tells_what_each_message_is(ledger: Ledger) -> None:
    """New, settled, in hand elsewhere, or begun by a holder before us: in the order that was asked in."""
    await begun(ledger, 6)
    await ledger.claim(RUN, seqs(1, 2, 3), False)
    await ledger.settle(RUN, outcomes({1: SENT, 2: FAILED}))
    assert (await ledger.claim(RUN, seqs(3, 0, 2, 1), False)).tolist() == [DUPLICATE, NEW, SETTLED, SETTLED]
    assert (await ledger.claim(RUN, seqs(5, 3, 1), True)).tolist() == [NEW, AMBIGUOUS, SETTLED]
    snapshot = await ledger.snapshot(RUN)
    assert counters(snapshot) == (6, 1, 3, 1, 1)
    assert snapshot.ambiguous == 1


async def test_settling_again_counts_once(ledger: Ledger) -> None:
    """What is settled stays as it is, whatever is said of it later, and its time is counted once."""
    await begun(ledger, 4)
    await ledger.claim(RUN, seqs(0, 1, 2), False)
    for _ in range(2):
        await ledger.settle(RUN, outcomes({0: SENT, 1: FAILED}))
    await ledger.settle(RUN, outcomes({0: FAILED, 1: SENT, 2: SENT}))
    await ledger.settle(RUN, outcomes({0: RETRY, 1: RETRY}))
    snapshot = await ledger.snapshot(RUN)
    assert counters(snapshot) == (4, 1, 0, 2, 1)
    assert (snapshot.total_time_us, sum(snapshot.latency.values()), snapshot.retried) == (3000, 3, 0)


async def test_a_retry_puts_a_message_back(ledger: Ledger) -> None:
    """It is queued again and counted as retried, once; the next claim of it is a new one."""
    await begun(ledger, 2)
    await ledger.claim(RUN, seqs(0, 1), False)
    for _ in range(2):
        await ledger.settle(RUN, outcomes({0: RETRY}))
    snapshot = await ledger.snapshot(RUN)
    assert (counters(snapshot), snapshot.retried) == ((2, 1, 1, 0, 0), 1)
    assert (await ledger.claim(RUN, seqs(0), False)).tolist() == [NEW]


async def test_a_second_holder_may_settle_what_a_first_one_gave_back(ledger: Ledger) -> None:
    """A queued message can be settled: someone did send it."""
    await begun(ledger, 2)
    await ledger.claim(RUN, seqs(0, 1), False)
    await ledger.release(RUN, seqs(0, 1))
    await ledger.settle(RUN, outcomes({0: SENT}))
    assert counters(await ledger.snapshot(RUN)) == (2, 1, 0, 1, 0)
    assert (await ledger.claim(RUN, seqs(0), False)).tolist() == [SETTLED]


async def test_a_release_touches_only_what_is_sending(ledger: Ledger) -> None:
    """Settled and queued messages stay, and a repeated release changes nothing."""
    await begun(ledger, 4)
    await ledger.claim(RUN, seqs(0, 1, 2), False)
    await ledger.settle(RUN, outcomes({0: SENT, 1: FAILED}))
    for _ in range(2):
        await ledger.release(RUN, seqs(0, 1, 2, 3))
    assert counters(await ledger.snapshot(RUN)) == (4, 2, 0, 1, 1)


async def test_a_claim_of_what_nobody_announced_publishes_it(ledger: Ledger) -> None:
    """Each such seq counts once, through retries and a late announcement alike."""
    assert (await ledger.claim("foreign", seqs(5, 7), False)).tolist() == [NEW, NEW]
    await ledger.settle("foreign", outcomes({5: RETRY, 7: SENT}))
    await ledger.claim("foreign", seqs(5, 7), False)
    assert counters(await ledger.snapshot("foreign")) == (2, 0, 1, 1, 0)
    await ledger.announce("foreign", 0, 7)
    assert (await ledger.snapshot("foreign")).published == 8
    await ledger.announce("foreign", 7, 3)
    assert (await ledger.snapshot("foreign")).published == 10


async def test_far_apart_seqs_of_one_run_keep_apart(ledger: Ledger) -> None:
    """Messages on both sides of a piece's border, and far beyond, have states of their own."""
    border = 1 << 17
    far = seqs(border - 1, border, 3 * border + 5)
    await begun(ledger, 4 * border)
    assert (await ledger.claim(RUN, far, False)).tolist() == [NEW] * 3
    await ledger.settle(RUN, outcomes({border - 1: SENT, border: FAILED, 3 * border + 5: RETRY}))
    around = seqs(border - 2, border - 1, border, border + 1, 3 * border + 5)
    assert (await ledger.claim(RUN, around, False)).tolist() == [NEW, SETTLED, SETTLED, NEW, NEW]
    assert await ledger.recount(RUN) == {"sending": 3, "sent": 1, "failed": 1}


async def test_a_large_settle_in_any_order_is_exact(ledger: Ledger) -> None:
    """Tens of thousands of messages in random order, in parts that overlap, are each counted once."""
    count = 40_000
    await begun(ledger, count)
    draw = np.random.default_rng(1)
    order = draw.permutation(count)
    for part in np.array_split(order, 7):
        await ledger.claim(RUN, part, False)
    said = np.where(draw.random(count) < 0.1, np.uint8(FAILED), np.uint8(SENT))
    for _ in range(2):
        for part in np.array_split(draw.permutation(count), 3):
            await ledger.settle(RUN, Outcomes(part, said[part], np.full(part.size, 10)))
    failed = int(np.count_nonzero(said == FAILED))
    assert counters(await ledger.snapshot(RUN)) == (count, 0, 0, count - failed, failed)
    assert await ledger.recount(RUN) == {"sending": 0, "sent": count - failed, "failed": failed}


async def test_resuming_gives_what_the_producer_needs(ledger: Ledger) -> None:
    """Recipe, total, and how far the run got; for a run that is over, whoever asks."""
    await ledger.begin(RUN, '{"a": 1}', 10, "p1")
    await ledger.announce(RUN, 0, 10)
    await ledger.confirm(RUN, 7)
    await ledger.confirm(RUN, 4)
    found = await ledger.resume(RUN, "p1")
    assert (found.recipe, found.total, found.announced, found.confirmed) == ('{"a": 1}', 10, 10, 7)
    with pytest.raises(RunBusy):
        await ledger.resume(RUN, "p2")
    await ledger.leave(RUN, "p2")
    with pytest.raises(RunBusy):
        await ledger.resume(RUN, "p2")
    await ledger.leave(RUN, "p1")
    assert (await ledger.resume(RUN, "p2")).confirmed == 7
    await ledger.confirm(RUN, 10)
    assert (await ledger.resume(RUN, "p3")).confirmed == 10
    with pytest.raises(UnknownRun):
        await ledger.resume("nowhere", "p2")


async def test_senders_are_listed_while_they_live(ledger: Ledger) -> None:
    """A heartbeat lists a sender with its share; a goodbye takes it off."""
    await begun(ledger, 4)
    await ledger.claim(RUN, seqs(0, 1, 2), False)
    await ledger.heartbeat("s1", 10, 3)
    await ledger.heartbeat("s2", 20, 0)
    await ledger.settle(RUN, outcomes({0: SENT, 1: FAILED, 2: RETRY}), "s1")
    senders = (await ledger.snapshot()).senders
    assert set(senders) == {"s1", "s2"}
    first = senders["s1"]
    assert (first.slots, first.in_flight, first.sent, first.failed, first.retried) == (10, 3, 1, 1, 1)
    await ledger.goodbye("s1")
    assert set((await ledger.snapshot()).senders) == {"s2"}


async def test_rejected_bodies_are_counted_apart(ledger: Ledger) -> None:
    """They are in no run and not part of the identity."""
    await ledger.reject(2)
    snapshot = await ledger.snapshot()
    assert (snapshot.rejected, snapshot.published) == (2, 0)


async def test_an_unknown_run_is_said_to_be_so(ledger: Ledger) -> None:
    """No empty statistics for a name that was mistyped."""
    with pytest.raises(UnknownRun):
        await ledger.snapshot("nowhere")
    with pytest.raises(UnknownRun):
        await ledger.recount("nowhere")


async def test_a_call_about_no_message_changes_nothing(ledger: Ledger) -> None:
    """An empty claim, settle or release is no mistake: what is left after others were dropped may be nothing."""
    await begun(ledger, 2)
    assert (await ledger.claim(RUN, seqs(), True)).tolist() == []
    await ledger.settle(RUN, outcomes({}))
    await ledger.release(RUN, seqs())
    assert counters(await ledger.snapshot(RUN)) == (2, 2, 0, 0, 0)


async def test_runs_do_not_mix(ledger: Ledger) -> None:
    """The same seq in two runs is two messages; the totals add up."""
    for run, count in (("a", 3), ("b", 5)):
        await begun(ledger, count, run)
    await ledger.claim("a", seqs(0, 1), False)
    await ledger.settle("a", outcomes({0: SENT}))
    assert (await ledger.claim("b", seqs(0), False)).tolist() == [NEW]
    assert counters(await ledger.snapshot("a")) == (3, 1, 1, 1, 0)
    assert counters(await ledger.snapshot()) == (8, 5, 2, 1, 0)

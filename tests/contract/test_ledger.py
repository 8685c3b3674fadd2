"""The ledger's promises (common/ledger/port.py), held by the memory ledger and by Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from msgspec.structs import replace

from common.errors import LedgerLost, RunBusy, RunExists, RunOpen, UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Outcomes, Publication, Snapshot, Standing
from common.messages import Outcome, State
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


def outcomes(of: dict[int, Outcome], time_us: int = 1000, ambiguous: list[bool] | None = None) -> Outcomes:
    return Outcomes(
        np.array(list(of), np.int64),
        np.array(list(of.values()), np.uint8),
        np.full(len(of), time_us, np.int64),
        None if ambiguous is None else np.array(ambiguous),
    )


async def begun(ledger: Ledger, count: int, run: str = RUN) -> None:
    await ledger.begin(run, "{}", count, "p")
    await ledger.announce(run, 0, count)


async def settled(ledger: Ledger, count: int, run: str = RUN) -> None:
    """A run that is over: all of it is announced, confirmed and sent."""
    await begun(ledger, count, run)
    await ledger.confirm(run, count)
    await ledger.claim(run, np.arange(count), False)
    await ledger.settle(run, outcomes(dict.fromkeys(range(count), SENT)))


async def unsettled(ledger: Ledger, run: str = RUN) -> list[list[int]]:
    return [seqs.tolist() async for seqs in ledger.unsettled(run)]


def counters(snapshot: Snapshot) -> tuple[int, int, int, int, int]:
    return snapshot.published, snapshot.queued, snapshot.sending, snapshot.sent, snapshot.failed


async def test_a_message_goes_from_queued_over_sending_to_sent_or_failed(ledger: Ledger) -> None:
    """The counters follow each step, for the run and for all runs together."""
    await begun(ledger, 3)
    for run in (RUN, None):
        assert counters(await ledger.snapshot(run)) == (3, 3, 0, 0, 0)
    assert (await ledger.claim(RUN, seqs(0, 1), False)).standing.tolist() == [NEW, NEW]
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
    """Seqs that the ledger knows nothing of can't be skipped: it has lost them. Nothing changes, and no run opens."""
    await ledger.begin(RUN, "", 100, "p")
    await ledger.announce(RUN, 0, 10)
    with pytest.raises(LedgerLost, match="10 to 11"):
        await ledger.announce(RUN, 12, 5)
    assert (await ledger.snapshot(RUN)).published == 10
    with pytest.raises(LedgerLost, match="0 to 4 of run lost"):
        await ledger.announce("lost", 5, 5)
    assert await ledger.runs() == [RUN]


@pytest.mark.parametrize("total", [0, 100])
async def test_nothing_more_is_announced_of_a_run_that_was_cut(ledger: Ledger, total: int) -> None:
    """Its producer slept, and somebody ended it: what nobody would look at must not be added, and nothing changes. An
    announcement from before, whose answer was lost, succeeds when it is repeated.
    """
    await ledger.begin(RUN, "", total, "p")
    await ledger.announce(RUN, 0, 10)
    await ledger.close_run(RUN)
    for first, count in ((10, 5), (5, 6)):
        with pytest.raises(LedgerLost, match=f"run {RUN} was closed by"):
            await ledger.announce(RUN, first, count)
    with pytest.raises(LedgerLost, match="10 to 11"):
        await ledger.announce(RUN, 12, 5)
    for first, count in ((0, 10), (5, 5), (2, 3)):
        await ledger.announce(RUN, first, count)
    assert counters(await ledger.snapshot(RUN)) == (10, 10, 0, 0, 0)
    far = await ledger.publication(RUN)
    assert (far.total, far.announced, far.confirmed, far.publishing) == (10, 10, 10, False)


async def test_a_name_that_was_cut_and_forgotten_is_free_again(ledger: Ledger) -> None:
    """Of the new run as much is announced as one likes."""
    await ledger.begin(RUN, "", 4, "p")
    await ledger.close_run(RUN)
    await ledger.forget(RUN)
    await ledger.announce(RUN, 0, 2)
    await ledger.begin(RUN, "", 4, "p")
    await ledger.announce(RUN, 0, 4)
    assert (await ledger.snapshot(RUN)).published == 4


async def test_a_claim_tells_what_each_message_is(ledger: Ledger) -> None:
    """New, settled, in hand elsewhere, or begun by a holder before us: in the order that was asked in."""
    await begun(ledger, 6)
    await ledger.claim(RUN, seqs(1, 2, 3), False)
    await ledger.settle(RUN, outcomes({1: SENT, 2: FAILED}))
    assert (await ledger.claim(RUN, seqs(3, 0, 2, 1), False)).standing.tolist() == [
        DUPLICATE,
        NEW,
        SETTLED,
        SETTLED,
    ]
    assert (await ledger.claim(RUN, seqs(5, 3, 1), True)).standing.tolist() == [NEW, AMBIGUOUS, SETTLED]
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
    assert (await ledger.claim(RUN, seqs(0), False)).standing.tolist() == [NEW]


async def test_a_second_holder_may_settle_what_a_first_one_gave_back(ledger: Ledger) -> None:
    """A queued message can be settled: someone did send it."""
    await begun(ledger, 2)
    await ledger.claim(RUN, seqs(0, 1), False)
    await ledger.release(RUN, seqs(0, 1))
    await ledger.settle(RUN, outcomes({0: SENT}))
    assert counters(await ledger.snapshot(RUN)) == (2, 1, 0, 1, 0)
    assert (await ledger.claim(RUN, seqs(0), False)).standing.tolist() == [SETTLED]


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
    assert (await ledger.claim("foreign", seqs(5, 7), False)).standing.tolist() == [NEW, NEW]
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
    assert (await ledger.claim(RUN, far, False)).standing.tolist() == [NEW] * 3
    await ledger.settle(RUN, outcomes({border - 1: SENT, border: FAILED, 3 * border + 5: RETRY}))
    around = seqs(border - 2, border - 1, border, border + 1, 3 * border + 5)
    assert (await ledger.claim(RUN, around, False)).standing.tolist() == [NEW, SETTLED, SETTLED, NEW, NEW]
    assert await ledger.recount(RUN) == {"published": 4 * border, "sending": 3, "sent": 1, "failed": 1}


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
    counted = {"published": count, "sending": 0, "sent": count - failed, "failed": failed}
    assert await ledger.recount(RUN) == counted


async def test_a_run_of_unknown_length_is_open_until_it_is_cut(ledger: Ledger) -> None:
    """While its producer is heard of nobody else may have it, though all that was announced is confirmed."""
    await ledger.begin(RUN, "", 0, "p1")
    await ledger.announce(RUN, 0, 10)
    await ledger.confirm(RUN, 10)
    assert (await ledger.publication(RUN)).publishing
    with pytest.raises(RunBusy):
        await ledger.resume(RUN, "p2")
    await ledger.close_run(RUN)
    assert not (await ledger.publication(RUN)).publishing
    assert (await ledger.resume(RUN, "p2")).total == 10


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
    await ledger.deregister("s1")
    assert set((await ledger.snapshot()).senders) == {"s2"}


async def test_a_heartbeat_answers_when_the_sender_was_first_heard_of(ledger: Ledger) -> None:
    """The same time whenever it is asked, and another for another sender."""
    first = await ledger.heartbeat("s1", 10, 3)
    assert await ledger.heartbeat("s1", 20, 4) == first
    assert await ledger.heartbeat("s2", 20, 4) >= first
    assert abs((await ledger.snapshot()).now_us - first) < 60_000_000


async def test_it_is_ready(ledger: Ledger) -> None:
    """A write that changes nothing."""
    await ledger.ready()
    assert (await ledger.snapshot()).published == 0


async def test_rejected_bodies_are_counted_apart(ledger: Ledger) -> None:
    """They are in no run and not part of the identity."""
    await ledger.reject(2)
    snapshot = await ledger.snapshot()
    assert (snapshot.rejected, snapshot.published) == (2, 0)


ABOUT_A_RUN: dict[str, Callable[[Ledger], Awaitable[object]]] = {
    "resume": lambda ledger: ledger.resume("nowhere", "p"),
    "close_run": lambda ledger: ledger.close_run("nowhere"),
    "forget": lambda ledger: ledger.forget("nowhere"),
    "publication": lambda ledger: ledger.publication("nowhere"),
    "states": lambda ledger: ledger.states("nowhere", seqs(0)),
    "unsettled": lambda ledger: unsettled(ledger, "nowhere"),
    "snapshot": lambda ledger: ledger.snapshot("nowhere"),
    "recount": lambda ledger: ledger.recount("nowhere"),
}


@pytest.mark.parametrize("call", ABOUT_A_RUN)
async def test_an_unknown_run_is_said_to_be_so(ledger: Ledger, call: str) -> None:
    """No empty answer for a name that was mistyped, and no run is opened by asking for it."""
    with pytest.raises(UnknownRun, match="nowhere"):
        await ABOUT_A_RUN[call](ledger)
    assert await ledger.runs() == []


async def test_a_call_about_no_message_changes_nothing(ledger: Ledger) -> None:
    """An empty claim, settle or release is no mistake: what is left after others were dropped may be nothing."""
    await begun(ledger, 2)
    assert (await ledger.claim(RUN, seqs(), True)).standing.tolist() == []
    await ledger.settle(RUN, outcomes({}))
    await ledger.settle(RUN, outcomes({}, ambiguous=[]))
    await ledger.release(RUN, seqs())
    assert (await ledger.cancel(RUN, seqs())).tolist() == []
    assert (await ledger.states(RUN, seqs())).tolist() == []
    assert counters(await ledger.snapshot(RUN)) == (2, 2, 0, 0, 0)


async def test_cancel_fails_what_is_queued(ledger: Ledger) -> None:
    """Queued to failed, and it says which, in the order of the seqs; what is sending, sent or failed stays."""
    await begun(ledger, 7)
    await ledger.claim(RUN, seqs(1, 2, 3, 5), False)
    await ledger.settle(RUN, outcomes({1: SENT, 2: FAILED, 5: RETRY}))
    assert (await ledger.cancel(RUN, seqs(3, 5, 2, 0, 1))).tolist() == [False, True, False, True, False]
    states = [State.FAILED, State.SENT, State.FAILED, State.SENDING, State.QUEUED, State.FAILED, State.QUEUED]
    assert (await ledger.states(RUN, np.arange(7))).tolist() == states
    assert await ledger.recount(RUN) == {"published": 7, "sending": 1, "sent": 1, "failed": 3}
    for run in (RUN, None):
        now = await ledger.snapshot(run)
        assert counters(now) == (7, 2, 1, 1, 3)
        assert (now.retried, now.ambiguous, now.canceled) == (1, 0, 2)
    assert (await ledger.canceled(RUN, np.arange(8))).tolist() == [k in (0, 5) for k in range(8)]
    with pytest.raises(UnknownRun):
        await ledger.canceled("unknown", seqs(0))


async def test_a_canceled_message_is_settled_and_has_no_send_time(ledger: Ledger) -> None:
    """The histogram and the sum of the times are those of the messages that were sent or tried."""
    await begun(ledger, 4)
    await ledger.claim(RUN, seqs(0), False)
    await ledger.settle(RUN, outcomes({0: SENT}, 2000), "s")
    await ledger.heartbeat("s", 1, 0)
    before = await ledger.snapshot(RUN)
    assert (await ledger.cancel(RUN, seqs(1, 2))).all()
    for run in (RUN, None):
        now = await ledger.snapshot(run)
        assert (now.settled, sum(now.latency.values()), now.total_time_us) == (3, 1, 2000)
        assert now.last_settled_us >= before.last_settled_us > 0
        assert (now.senders["s"].sent, now.senders["s"].failed) == (1, 0)


async def test_cancel_of_nothing_that_is_queued_changes_nothing(ledger: Ledger) -> None:
    """Not even the moment at which the last message was settled."""
    await begun(ledger, 2)
    await ledger.claim(RUN, seqs(0, 1), False)
    await ledger.settle(RUN, outcomes({0: FAILED}))
    before = await ledger.snapshot(RUN)
    assert not (await ledger.cancel(RUN, seqs(1, 0))).any()
    assert replace(await ledger.snapshot(RUN), now_us=before.now_us) == before


async def test_a_sender_finds_a_canceled_message_settled(ledger: Ledger) -> None:
    """Whether it comes for the first time or again, and whatever is said of it: it is counted once, as failed."""
    await begun(ledger, 3)
    assert (await ledger.cancel(RUN, seqs(0, 1))).all()
    for redelivered in (False, True):
        assert (await ledger.claim(RUN, seqs(1, 0), redelivered)).standing.tolist() == [SETTLED] * 2
    await ledger.settle(RUN, outcomes({0: SENT, 1: RETRY}))
    await ledger.release(RUN, seqs(0, 1))
    assert (await ledger.cancel(RUN, seqs(0, 1))).all(), "they were canceled before, and are counted once"
    assert counters(await ledger.snapshot(RUN)) == (3, 1, 0, 0, 2)


async def test_cancel_of_what_was_not_announced_publishes_it(ledger: Ledger) -> None:
    """Each such seq is counted once, also when it is announced later; of a run, too, that nobody began."""
    assert (await ledger.cancel("foreign", seqs(5, 7))).all()
    assert counters(await ledger.snapshot("foreign")) == (2, 0, 0, 0, 2)
    await ledger.announce("foreign", 0, 6)
    assert counters(await ledger.snapshot("foreign")) == (7, 5, 0, 0, 2)
    assert (await ledger.cancel("foreign", seqs(4, 5, 6, 7))).all()
    assert counters(await ledger.snapshot("foreign")) == (8, 4, 0, 0, 4)
    assert await ledger.recount("foreign") == {"published": 8, "sending": 0, "sent": 0, "failed": 4}
    assert await ledger.runs() == ["foreign"]


async def test_cancel_reaches_over_pieces(ledger: Ledger) -> None:
    """Scattered seqs of several pieces, in any order, and in between them what others have taken."""
    border = 1 << 17
    await begun(ledger, 3 * border)
    await ledger.claim(RUN, seqs(border, 2 * border + 9, 15), False)
    some = seqs(2 * border + 9, border - 1, 15, border, 16, 2 * border + 900, 0)
    assert (await ledger.cancel(RUN, some)).tolist() == [False, True, False, False, True, True, True]
    assert await ledger.recount(RUN) == {"published": 3 * border, "sending": 3, "sent": 0, "failed": 4}
    canceled = await ledger.cancel(RUN, np.arange(border + 100))
    assert np.flatnonzero(~canceled).tolist() == [15, border]
    assert (await ledger.canceled(RUN, np.arange(border + 100)) == canceled).all()
    assert (await ledger.snapshot(RUN)).failed == (await ledger.recount(RUN))["failed"] == border + 99
    assert (await ledger.snapshot(RUN)).sending == 3


async def test_a_run_that_is_canceled_whole_is_over(ledger: Ledger) -> None:
    """Nothing of it is unsettled, and it can be forgotten once it is cut."""
    await begun(ledger, 40)
    assert (await ledger.snapshot(RUN)).last_settled_us == 0
    await ledger.cancel(RUN, np.arange(30))
    assert (await ledger.snapshot(RUN)).last_settled_us > 0
    assert await unsettled(ledger) == [list(range(30, 40))]
    await ledger.cancel(RUN, np.arange(30, 40))
    assert await unsettled(ledger) == []
    await ledger.close_run(RUN)
    await ledger.forget(RUN)
    assert counters(await ledger.snapshot()) == (40, 0, 0, 0, 40)


async def test_runs_do_not_mix(ledger: Ledger) -> None:
    """The same seq in two runs is two messages; the totals add up."""
    for run, count in (("a", 3), ("b", 5)):
        await begun(ledger, count, run)
    await ledger.claim("a", seqs(0, 1), False)
    await ledger.settle("a", outcomes({0: SENT}))
    assert (await ledger.claim("b", seqs(0), False)).standing.tolist() == [NEW]
    assert counters(await ledger.snapshot("a")) == (3, 1, 1, 1, 0)
    assert counters(await ledger.snapshot()) == (8, 5, 2, 1, 0)


async def test_a_flagged_send_counts_as_ambiguous_where_its_settle_counts(ledger: Ledger) -> None:
    """Sent, failed and retried alike, once each; what a settle doesn't move adds nothing, nor does its repeat."""
    await begun(ledger, 6)
    await ledger.claim(RUN, np.arange(5), False)
    await ledger.settle(RUN, outcomes({4: SENT}))
    said = outcomes(
        {0: SENT, 1: FAILED, 2: RETRY, 3: SENT, 4: FAILED}, ambiguous=[True, True, True, False, True]
    )
    for _ in range(2):
        await ledger.settle(RUN, said, "s")
    for run in (RUN, None):
        snapshot = await ledger.snapshot(run)
        assert counters(snapshot) == (6, 2, 0, 3, 1)
        assert (snapshot.ambiguous, snapshot.retried) == (3, 1)


async def test_flags_stay_with_their_messages(ledger: Ledger) -> None:
    """Out of order and on both sides of a piece's border, each flag is that of its own message."""
    border = 1 << 17
    await begun(ledger, border + 10)
    await ledger.claim(RUN, seqs(border + 1, 3, border, 5), False)
    await ledger.settle(RUN, outcomes({border: SENT, 5: SENT}))
    await ledger.settle(
        RUN, outcomes({border + 1: SENT, 5: SENT, 3: SENT, border: SENT}, ambiguous=[True, True, False, True])
    )
    assert (await ledger.snapshot(RUN)).ambiguous == 1


async def test_a_runs_age_grows_from_its_beginning(ledger: Ledger) -> None:
    """A claim gives it by the ledger's clock, so that all senders see the same; a claim makes no run younger."""
    await ledger.begin(RUN, "", 5, "p")
    first = (await ledger.claim(RUN, seqs(0), False)).age_s
    snapshot = await ledger.snapshot(RUN)
    second = (await ledger.claim(RUN, seqs(0, 1 << 17), True)).age_s
    assert 0 <= first <= (snapshot.now_us - snapshot.started_us) / 1e6 <= second


async def test_a_run_that_nobody_began_begins_with_its_first_claim(ledger: Ledger) -> None:
    """A publisher that does not use the ledger has a run all the same, and the run has one beginning."""
    claim = await ledger.claim("foreign", seqs(0), False)
    began = (await ledger.snapshot("foreign")).started_us
    assert began > 0
    assert claim.age_s >= 0
    await ledger.claim("foreign", seqs(1), False)
    assert (await ledger.snapshot("foreign")).started_us == began
    assert await ledger.runs() == ["foreign"]


async def test_runs_are_listed_oldest_first(ledger: Ledger) -> None:
    """Whether they were begun, announced or just claimed; each once."""
    assert await ledger.runs() == []
    await ledger.begin("c", "", 5, "p")
    await ledger.announce("b", 0, 5)
    await ledger.claim("a", seqs(1), False)
    await ledger.announce("c", 0, 5)
    assert await ledger.runs() == ["c", "b", "a"]


async def test_the_newest_runs_are_listed_oldest_first(ledger: Ledger) -> None:
    """No more than were asked for, whatever has become of them; all if there are fewer."""
    assert await ledger.runs(3) == []
    for run in ("d", "c", "b"):
        await begun(ledger, 1, run)
    await settled(ledger, 1, "a")
    for newest, listed in ((0, []), (1, ["a"]), (3, ["c", "b", "a"]), (4, ["d", "c", "b", "a"])):
        assert await ledger.runs(newest) == listed
    assert await ledger.runs(1000) == await ledger.runs() == ["d", "c", "b", "a"]
    await ledger.forget("a")
    assert await ledger.runs(2) == ["c", "b"]


async def test_a_run_is_open_until_it_is_settled_and_wholly_published(ledger: Ledger) -> None:
    """Both it must be, in whichever order it comes; a session, whose total is not known, until it is cut."""
    assert await ledger.open_runs() == []
    await ledger.begin("session", "{}", 0, "p")
    await ledger.begin("whole", "{}", 4, "p")
    for run in ("session", "whole"):
        await ledger.announce(run, 0, 2)
        await ledger.claim(run, seqs(0, 1), False)
        await ledger.settle(run, outcomes({0: SENT, 1: FAILED}))
    assert await ledger.open_runs() == ["session", "whole"]
    await ledger.announce("whole", 2, 2)
    await ledger.claim("whole", seqs(2, 3), False)
    await ledger.settle("whole", outcomes({2: SENT, 3: RETRY}))
    assert await ledger.open_runs() == ["session", "whole"]
    await ledger.cancel("whole", seqs(3))
    assert await ledger.open_runs() == ["session"]
    await ledger.announce("session", 2, 1)
    await ledger.close_run("session")
    assert await ledger.open_runs() == ["session"]
    await ledger.settle("session", outcomes({2: SENT}))
    assert await ledger.open_runs() == []
    assert await ledger.runs() == ["session", "whole"]


async def test_a_run_that_goes_on_is_open_again(ledger: Ledger) -> None:
    """More is announced, or comes unannounced; announcing again what was announced before opens nothing."""
    await settled(ledger, 2)
    await ledger.announce(RUN, 0, 2)
    assert await ledger.open_runs() == []
    await ledger.announce(RUN, 2, 1)
    assert await ledger.open_runs() == [RUN]
    await ledger.cancel(RUN, seqs(2, 3))
    assert await ledger.open_runs() == []
    await ledger.claim(RUN, seqs(4), False)
    assert await ledger.open_runs() == [RUN]


async def test_a_run_that_is_cut_before_anything_is_published_is_over(ledger: Ledger) -> None:
    """A batch that could not be published, or a session that nobody sent by: nobody need look at it again."""
    await ledger.begin(RUN, "{}", 4, "p")
    assert await ledger.open_runs() == [RUN]
    await ledger.close_run(RUN)
    assert await ledger.open_runs() == []
    await ledger.forget(RUN)
    await ledger.begin(RUN, "{}", 4, "p")
    assert await ledger.open_runs() == [RUN]


async def test_a_run_that_nobody_began_is_open_while_it_is_unsettled(ledger: Ledger) -> None:
    """More may come of it, and is noticed; once a producer has taken it over, it must say when it is done."""
    await ledger.claim("foreign", seqs(0, 1), False)
    assert await ledger.open_runs() == ["foreign"]
    await ledger.settle("foreign", outcomes({0: SENT, 1: SENT}))
    assert await ledger.open_runs() == []
    await ledger.claim("foreign", seqs(2), False)
    await ledger.settle("foreign", outcomes({2: RETRY}))
    assert await ledger.open_runs() == ["foreign"]
    await ledger.cancel("foreign", seqs(2))
    assert await ledger.open_runs() == []
    await ledger.resume("foreign", "p")
    assert await ledger.open_runs() == ["foreign"]
    await ledger.close_run("foreign")
    assert await ledger.open_runs() == []


async def test_the_publication_tells_how_far_a_run_got(ledger: Ledger) -> None:
    """It is publishing from its beginning until all is confirmed, or its producer has left."""
    await ledger.begin(RUN, "recipe", 10, "p")
    assert await ledger.publication(RUN) == Publication("recipe", 10, 0, 0, True)
    await ledger.announce(RUN, 0, 8)
    await ledger.confirm(RUN, 5)
    assert await ledger.publication(RUN) == Publication("recipe", 10, 8, 5, True)
    await ledger.leave(RUN, "p")
    for _ in range(2):
        assert await ledger.publication(RUN) == Publication("recipe", 10, 8, 5, False)
    await ledger.resume(RUN, "q")
    assert (await ledger.publication(RUN)).publishing
    await ledger.announce(RUN, 8, 2)
    await ledger.confirm(RUN, 10)
    assert await ledger.publication(RUN) == Publication("recipe", 10, 10, 10, False)
    await ledger.claim("foreign", seqs(3), False)
    assert await ledger.publication("foreign") == Publication("", 0, 0, 0, False)


async def test_states_are_told_and_left_alone(ledger: Ledger) -> None:
    """In the order that was asked in, over pieces and beyond what was ever heard of."""
    border = 1 << 17
    await begun(ledger, border + 10)
    await ledger.claim(RUN, seqs(1, 2, border, border + 1), False)
    await ledger.settle(RUN, outcomes({2: SENT, border + 1: FAILED}))
    asked = seqs(border + 1, 9, 2, border, 1, 1 << 30)
    expected = [State.FAILED, State.QUEUED, State.SENT, State.SENDING, State.SENDING, State.QUEUED]
    for _ in range(2):
        assert (await ledger.states(RUN, asked)).tolist() == expected
    assert counters(await ledger.snapshot(RUN)) == (border + 10, border + 6, 2, 1, 1)


async def test_what_is_unsettled_is_found(ledger: Ledger) -> None:
    """Queued or sending, announced or only claimed, ascending, a piece at a time."""
    border = 1 << 17
    await begun(ledger, 4)
    await ledger.claim(RUN, seqs(2 * border + 7, 1, 6, 3, 2 * border, 8), False)
    await ledger.settle(RUN, outcomes({3: SENT, 8: FAILED, 2 * border + 7: RETRY}))
    assert await unsettled(ledger) == [[0, 1, 2, 6], [2 * border, 2 * border + 7]]
    await ledger.announce(RUN, 4, border)
    found = await unsettled(ledger)
    assert found[0] == [0, 1, 2, *range(4, 8), *range(9, border)]
    assert found[1:] == [list(range(border, border + 4)), [2 * border, 2 * border + 7]]


async def test_nothing_is_unsettled_of_a_run_that_is_over(ledger: Ledger) -> None:
    """Settling as failed what is found unsettled, as a repair does, ends a run exactly."""
    await begun(ledger, 300)
    await ledger.claim(RUN, np.arange(0, 200, 2), False)
    await ledger.settle(RUN, outcomes(dict.fromkeys(range(0, 100, 2), SENT)))
    for _ in range(2):
        async for left in ledger.unsettled(RUN):
            await ledger.settle(RUN, outcomes(dict.fromkeys(left.tolist(), FAILED)))
    assert counters(await ledger.snapshot(RUN)) == (300, 0, 0, 50, 250)
    assert await unsettled(ledger) == []


async def test_a_recount_knows_what_is_published(ledger: Ledger) -> None:
    """Announced messages and those that were only claimed, each once, counted from the record of each."""
    border = 1 << 17
    await begun(ledger, 10)
    await ledger.claim(RUN, seqs(5, 12, 14, border + 3), False)
    assert await ledger.recount(RUN) == {"published": 13, "sending": 4, "sent": 0, "failed": 0}
    await ledger.announce(RUN, 10, 3)
    assert await ledger.recount(RUN) == {"published": 15, "sending": 4, "sent": 0, "failed": 0}
    assert (await ledger.snapshot(RUN)).published == 15


async def test_a_cut_run_is_as_long_as_what_is_announced(ledger: Ledger) -> None:
    """Nobody waits for the rest any more; what is announced is still to be settled."""
    await ledger.begin(RUN, "recipe", 100, "p")
    await ledger.announce(RUN, 0, 4)
    await ledger.confirm(RUN, 2)
    for _ in range(2):
        await ledger.close_run(RUN)
        assert await ledger.publication(RUN) == Publication("recipe", 4, 4, 4, False)
    snapshot = await ledger.snapshot(RUN)
    assert (counters(snapshot), snapshot.total) == ((4, 4, 0, 0, 0), 4)


async def test_only_a_run_that_is_over_can_be_forgotten(ledger: Ledger) -> None:
    """Not while messages are unsettled, nor while some are still to be published; it says so and keeps all."""
    await ledger.begin(RUN, "", 4, "p")
    await ledger.announce(RUN, 0, 2)
    with pytest.raises(RunOpen, match=r"run-1.*4 messages, 2 published, 0 settled"):
        await ledger.forget(RUN)
    await ledger.claim(RUN, seqs(0, 1), False)
    await ledger.settle(RUN, outcomes({0: SENT, 1: SENT}))
    with pytest.raises(RunOpen, match="4 messages, 2 published, 2 settled"):
        await ledger.forget(RUN)
    await ledger.announce(RUN, 2, 2)
    await ledger.claim(RUN, seqs(2), False)
    await ledger.settle(RUN, outcomes({2: FAILED}))
    with pytest.raises(RunOpen, match="4 messages, 4 published, 3 settled"):
        await ledger.forget(RUN)
    assert counters(await ledger.snapshot(RUN)) == (4, 1, 0, 2, 1)
    await ledger.settle(RUN, outcomes({3: FAILED}))
    await ledger.forget(RUN)
    assert await ledger.runs() == []


async def test_the_totals_outlive_a_forgotten_run(ledger: Ledger) -> None:
    """Its own record is gone; the counters, the histogram and the beginning of all runs together stay."""
    await settled(ledger, 3)
    await begun(ledger, 2, "another")
    before = await ledger.snapshot()
    await ledger.forget(RUN)
    after = await ledger.snapshot()
    assert (counters(after), after.latency) == ((5, 2, 0, 3, 0), before.latency)
    assert await ledger.runs() == ["another"]
    await ledger.begin("a-third", "", 1, "p")
    assert after.started_us == (await ledger.snapshot()).started_us == before.started_us
    for call in (ledger.snapshot, ledger.recount, ledger.publication, ledger.forget):
        with pytest.raises(UnknownRun):
            await call(RUN)


async def test_a_late_copy_of_a_forgotten_runs_message_counts_nowhere(ledger: Ledger) -> None:
    """Each of its messages was settled, so it is found settled; nothing opens the run again."""
    await settled(ledger, 3)
    await ledger.forget(RUN)
    before = await ledger.snapshot()
    border = 1 << 17
    for redelivered in (False, True):
        late = await ledger.claim(RUN, seqs(2, 0, border, 40), redelivered)
        assert late.standing.tolist() == [SETTLED] * 4
        assert late.age_s == 0.0
    said = {0: SENT, 1: FAILED, 2: RETRY, border: SENT}
    await ledger.settle(RUN, outcomes(said, ambiguous=[True] * 4))
    await ledger.release(RUN, seqs(0, 1))
    assert (await ledger.cancel(RUN, seqs(2, border, 0, 3 * border))).tolist() == [False] * 4
    await ledger.announce(RUN, 3, 5)
    await ledger.confirm(RUN, 8)
    assert await ledger.runs() == []
    after = await ledger.snapshot()
    assert (counters(after), after.ambiguous, after.latency) == ((3, 0, 0, 3, 0), 0, before.latency)


async def test_a_forgotten_name_can_begin_again(ledger: Ledger) -> None:
    """The new run knows nothing of the old one, and can be forgotten in its turn."""
    for count in (3, 2):
        await settled(ledger, count)
        assert counters(await ledger.snapshot(RUN)) == (count, 0, 0, count, 0)
        await ledger.forget(RUN)
    assert counters(await ledger.snapshot()) == (5, 0, 0, 5, 0)


async def test_what_a_repeat_gives_back_is_ambiguous(ledger: Ledger) -> None:
    """Its first try may have been carried out, and another holder have taken the message since."""
    await ledger.begin(RUN, "", 4, "p")
    await ledger.announce(RUN, 0, 4)
    seqs = np.arange(4)
    await ledger.claim(RUN, seqs, redelivered=False)
    retries = Outcomes(seqs[:2], np.full(2, Outcome.RETRY, np.uint8), np.zeros(2, np.int64))
    await ledger.settle(RUN, retries)
    await ledger.settle(RUN, retries, again=True)
    assert (await ledger.snapshot(RUN)).ambiguous == 0, "nothing had moved since"
    await ledger.claim(RUN, seqs[:1], redelivered=True)
    await ledger.settle(RUN, retries, again=True)
    assert (await ledger.snapshot(RUN)).ambiguous == 1
    await ledger.release(RUN, seqs[2:])
    await ledger.release(RUN, seqs[2:], again=True)
    assert (await ledger.snapshot(RUN)).ambiguous == 1
    await ledger.claim(RUN, seqs[2:], redelivered=True)
    await ledger.release(RUN, seqs[2:], again=True)
    now = await ledger.snapshot(RUN)
    assert (now.ambiguous, now.queued, now.sending) == (3, 4, 0)


async def test_a_run_of_unknown_length_is_not_forgotten(ledger: Ledger) -> None:
    """What still waits of it in a queue would find itself settled: lost, and in no counter."""
    seqs = np.arange(4)
    await ledger.claim(RUN, seqs, redelivered=False)
    sent = Outcomes(seqs, np.full(4, Outcome.SENT, np.uint8), np.zeros(4, np.int64))
    await ledger.settle(RUN, sent)
    with pytest.raises(RunOpen, match="was not begun by a producer"):
        await ledger.forget(RUN)
    assert (await ledger.snapshot(RUN)).sent == 4


async def test_marks_of_what_was_replayed(ledger: Ledger) -> None:
    """They are of one message each, in any piece; a run that is not there has none and gets none."""
    seqs = np.array([0, 7, 8, 131_071, 131_072, 400_000])
    marked = seqs[[1, 3, 5]]
    await ledger.mark_replayed("nowhere", seqs)
    assert not (await ledger.replayed("nowhere", seqs)).any()
    await ledger.begin(RUN, "", 500_000, "p")
    await ledger.announce(RUN, 0, 500_000)
    await ledger.mark_replayed(RUN, marked)
    await ledger.mark_replayed(RUN, marked)
    assert (await ledger.replayed(RUN, seqs)).tolist() == [False, True, False, True, False, True]
    assert (await ledger.recount(RUN)) == {"published": 500_000, "sending": 0, "sent": 0, "failed": 0}


async def test_seqs_far_apart_of_a_run_that_nobody_announced_are_counted_once_each(ledger: Ledger) -> None:
    """Whatever is done with them, in any part of a piece; an announcement that comes later counts the others only."""
    far = seqs(0, 15, 16, 1_023, 1_024, 70_000, 131_071, 131_072, 5 * 131_072 - 1)
    assert (await ledger.claim(RUN, far, False)).standing.tolist() == [NEW] * far.size
    assert (await ledger.claim(RUN, far, True)).standing.tolist() == [AMBIGUOUS] * far.size
    await ledger.release(RUN, far[2:4])
    await ledger.settle(RUN, outcomes({int(seq): SENT for seq in far[:2]}))
    await ledger.settle(RUN, outcomes({int(far[4]): FAILED, int(far[5]): RETRY}))
    assert (await ledger.cancel(RUN, seqs(16, 1_023, 2_000))).tolist() == [True] * 3
    assert (await ledger.canceled(RUN, seqs(15, 16, 2_000))).tolist() == [False, True, True]
    states = [State.SENT, State.SENT, State.FAILED, State.FAILED, State.FAILED, State.QUEUED]
    assert (await ledger.states(RUN, far)).tolist() == [*states, *[State.SENDING] * 3]
    now = await ledger.snapshot(RUN)
    assert (now.published, now.sending, now.sent, now.failed) == (10, 3, 2, 4)
    assert await ledger.recount(RUN) == {"published": 10, "sending": 3, "sent": 2, "failed": 4}
    assert await unsettled(ledger) == [[70_000, 131_071], [131_072], [5 * 131_072 - 1]]
    await ledger.announce(RUN, 0, 1_500)
    await ledger.announce(RUN, 1_500, 131_072 - 1_500)
    now = await ledger.snapshot(RUN)
    assert now.published == 131_072 + 2
    assert (await ledger.recount(RUN))["published"] == 131_072 + 2

"""common/publishing/pace.py and `producer.py --rate`: open arrivals, however full the queue is."""

import asyncio

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Lane, decode_batch
from common.publishing.pace import SHORTEST_PAUSE_S, Pace
from common.publishing.random import RandomSource
from common.publishing.run import Timing
from producer.cli import main
from tests.publishing import publish
from tests.waiting import eventually

RUN = "a-run"


class FakeClock:
    """Stands until it is set."""

    now_s = 100.0
    readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now_s


def published(broker: MemoryBroker) -> list[int]:
    """The sizes of the batches in the queue."""
    return [len(decode_batch(held.body)[0].messages) for held in broker.queues[Lane.BULK].bodies]


def test_each_message_is_due_at_its_own_moment() -> None:
    """Message k is due at start + k/R, not a gap after the one before went out."""
    clock = FakeClock()
    pace = Pace(10, clock)
    pace.start(0)
    assert pace.pause_s(0) == 0
    assert pace.pause_s(1) == pytest.approx(0.1)
    clock.now_s = 100.35
    assert [pace.pause_s(seq) for seq in (1, 2, 3)] == [0, 0, 0]
    assert pace.pause_s(4) == pytest.approx(0.05)


def test_how_late_is_told() -> None:
    """Of the last message, and of the latest."""
    clock = FakeClock()
    pace = Pace(10, clock)
    pace.start(0)
    clock.now_s = 105
    pace.pause_s(0)
    clock.now_s = 105.5
    pace.pause_s(50)
    assert pace.behind_s == pytest.approx(0.5)
    assert pace.most_behind_s == pytest.approx(5)


def test_a_resumed_run_begins_at_once() -> None:
    """Time counts from the first message that is left, not from the first of the run."""
    pace = Pace(10, FakeClock())
    pace.start(1_000_000)
    assert pace.pause_s(1_000_000) == 0
    assert pace.pause_s(1_000_001) == pytest.approx(0.1)


def test_pauses_are_worth_their_while() -> None:
    """At a million a second nobody sleeps for a microsecond."""
    pace = Pace(1e6, FakeClock())
    pace.start(0)
    assert pace.pause_s(1) == SHORTEST_PAUSE_S


@pytest.mark.parametrize(("batch_size", "at_5_s", "at_10_s"), [(1, 51, 101), (20, 40, 100), (1000, 0, 0)])
async def test_no_batch_before_its_last_message_is_due(batch_size: int, at_5_s: int, at_10_s: int) -> None:
    """At 10 messages/s the queue holds, after 5 s, all batches that are due and nothing else; late ones follow."""
    broker, ledger, clock = MemoryBroker(), MemoryLedger(), FakeClock()
    source = RandomSource(1_000, 1)
    await ledger.begin(RUN, "", source.count, "a-producer")
    pace = Pace(10, clock)
    publishing = asyncio.create_task(publish(broker, ledger, RUN, source, batch_size, pace=pace))
    await eventually(lambda: pace.began_s)
    for now_s, expected in (105.0, at_5_s), (110.0, at_10_s):
        clock.now_s = now_s
        await eventually(lambda expected=expected: sum(published(broker)) >= expected)  # type: ignore[misc]
        assert sum(published(broker)) == expected
    clock.now_s = 1000.0
    await publishing
    assert sum(published(broker)) == 1_000
    assert max(published(broker)) == min(batch_size, 1_000)


@pytest.mark.parametrize(
    ("batch_size", "at_s", "announced", "sent"),
    [
        (1_000, 98.8, 0, 0),  # the last is due after 99.9 s
        (1_000, 98.95, 1_000, 0),
        (1_000, 99.95, 1_000, 1_000),
        (7, 0.75, 10, 7),  # a batch goes on into the next block: that is due until after 1.9 s
        (7, 0.95, 20, 7),
        (1, 5.05, 60, 51),
    ],
)
async def test_nothing_is_announced_long_before_it_is_due(
    batch_size: int, at_s: float, announced: int, sent: int
) -> None:
    """At 10 messages/s only what is due within a second counts as queued, however large a batch is."""
    broker, ledger, clock = MemoryBroker(), MemoryLedger(), FakeClock()
    await ledger.begin(RUN, "", 3_000, "a-producer")
    publishing = asyncio.create_task(
        publish(
            broker,
            ledger,
            RUN,
            RandomSource(3_000, 1),
            batch_size,
            pace=Pace(10, clock),
            timing=Timing(confirm_every_s=0.001),
        )
    )
    await eventually(lambda: clock.readings > 3)
    clock.now_s += at_s

    async def reached() -> bool:
        counted = (await ledger.snapshot(RUN)).published
        assert counted <= announced, "announced too early"
        return (counted, sum(published(broker))) == (announced, sent)

    await eventually(reached)
    # It has looked at the clock, and gone on, some more times: that was no moment on the way.
    readings = clock.readings
    await eventually(lambda: clock.readings > readings + 3)
    assert await reached()
    publishing.cancel()
    await asyncio.wait([publishing])


async def test_a_queue_that_stalls_delays_nobody_for_good() -> None:
    """What came due while the broker kept its confirms back goes out as soon as it gives them, and nothing is lost."""
    broker, ledger, clock = MemoryBroker(capacity=50), MemoryLedger(), FakeClock()
    source = RandomSource(2_000, 1)
    await ledger.begin(RUN, "", source.count, "a-producer")
    pace = Pace(100, clock)
    publishing = asyncio.create_task(publish(broker, ledger, RUN, source, 1, pace=pace))
    await eventually(lambda: pace.began_s)
    clock.now_s += 3600
    await eventually(lambda: len(published(broker)) == 50)
    assert not publishing.done()
    subscription = await broker.subscribe(Lane.BULK, 10_000)
    seqs: list[int] = []
    while len(seqs) < source.count:
        for delivery in await subscription.take():
            seqs += [message.seq for message in decode_batch(delivery.body)[0].messages]
            delivery.ack()
    await publishing
    assert seqs == list(range(2_000))
    assert pace.most_behind_s > 3500


async def test_while_it_waits_the_ledger_learns_what_is_confirmed() -> None:
    """A slow publication that dies between two messages is resumed after the last confirmed one, and shows that far."""
    broker, ledger, clock = MemoryBroker(), MemoryLedger(), FakeClock()
    source, heard = RandomSource(1_000, 1), [0]
    await ledger.begin(RUN, "", source.count, "a-producer")
    publishing = asyncio.create_task(
        publish(
            broker,
            ledger,
            RUN,
            source,
            1,
            on_progress=heard.append,
            pace=Pace(0.001, clock),
            timing=Timing(confirm_every_s=0.01),
        )
    )

    async def noted() -> bool:
        return (await ledger.publication(RUN)).confirmed == 1

    await eventually(noted)
    assert heard[-1] == 1
    assert (await ledger.snapshot(RUN)).published < 10, "announced far ahead of what is due"
    publishing.cancel()
    await asyncio.wait([publishing])


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "fast", "1e10", ""])
def test_bad_rates(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wanted, exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["--num-messages", "1", "--rate", rate])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "argument --rate" in said
    assert "is not a number from 0.001 to 1e+09" in said

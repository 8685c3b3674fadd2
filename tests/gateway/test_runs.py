"""GET /runs, GET /runs/{run} and GET /stats: what they say of a ledger, what they cost it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import Refused, Unavailable
from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes, Snapshot
from common.messages import Outcome
from gateway.api.views import RunView
from gateway.live.limits import LiveLimits
from gateway.live.poller import Poller
from tests.gateway.running import running
from tests.gateway.streaming import Streaming, publish, streaming
from tests.waiting import eventually


class CountingLedger(MemoryLedger):
    """Counts how often each run was looked at; None: all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: Counter[str | None] = Counter()
        # How often it was asked for so many of the newest runs, or for those that go on.
        self.asked: Counter[int | str | None] = Counter()
        # A run of which nothing is told; the others take their time then.
        self.refused: str | None = None

    async def snapshot(self, run: str | None = None) -> Snapshot:
        self.looked[run] += 1
        if run is not None and self.refused is not None:
            if run == self.refused:
                raise Refused("Redis refuses")
            await asyncio.sleep(0.01)
        return await super().snapshot(run)

    async def runs(self, newest: int | None = None) -> list[str]:
        self.asked[newest] += 1
        return await super().runs(newest)

    async def open_runs(self) -> list[str]:
        self.asked["open"] += 1
        return await super().open_runs()


@pytest.fixture
def ledger() -> CountingLedger:
    return CountingLedger()


@pytest.fixture
async def it(ledger: CountingLedger) -> AsyncIterator[Streaming]:
    async with streaming(ledger) as it:
        yield it


async def test_runs_come_newest_first_with_their_progress(it: Streaming) -> None:
    """The list has each run's counters and progress, the newest first, as many as were asked for."""
    for name, settled in (("one", 10), ("two", 4), ("three", 0)):
        await publish(it.ledger, name, 10, settled)

    async def runs() -> Any:
        status, body = await it.get("/runs?limit=2")
        assert status == 200
        return body["runs"] if len(body["runs"]) == 2 else None

    three, two = await eventually(runs)

    assert (three["run"], three["progress"], three["over"]) == ("three", 0.0, False)
    assert (two["run"], two["progress"], two["over"], two["total"]) == ("two", 0.4, False, 10)
    assert two["published"] == two["queued"] + two["sending"] + two["sent"] + two["failed"] == 10
    assert two["p50_s"] == pytest.approx(2, rel=0.03)
    assert [run["run"] for run in (await it.get("/runs"))[1]["runs"]] == ["three", "two", "one"]


async def test_a_run_is_as_the_ledger_has_it_now(it: Streaming) -> None:
    """GET /runs/{run} asks the ledger: what was settled a moment ago is in it."""
    await publish(it.ledger, "a", 10, 4)
    assert (await it.get("/runs/a"))[1]["sent"] == 4
    await publish(it.ledger, "a", 10, 10)
    status, run = await it.get("/runs/a")

    assert status == 200
    assert (run["sent"], run["progress"], run["over"], run["eta_s"]) == (10, 1.0, True, 0.0)


async def test_a_run_of_unknown_length_is_never_over(it: Streaming) -> None:
    """A gateway's own run goes on: however many are settled, more may come."""
    await publish(it.ledger, "session", 0, 0)
    await publish(it.ledger, "session", 0, 5)

    run = (await it.get("/runs/session"))[1]

    assert (run["total"], run["progress"], run["over"]) == (None, None, False)


@pytest.mark.parametrize("name", ["no-such-run", "NOT-A-NAME", "a" * 41, "%00", "a%0A"])
async def test_no_such_run(it: Streaming, name: str) -> None:
    """404 as a problem, also for what can't be a run's name."""
    status, problem = await it.get(f"/runs/{name}")

    assert (status, problem["status"]) == (404, 404)
    assert "no such run" in problem["detail"]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "", "1_0", "%C2%B2", "9" * 5000, "1.0"])
async def test_a_bad_limit(it: Streaming, limit: str) -> None:
    """422, and it names the parameter."""
    status, problem = await it.get(f"/runs?limit={limit}")

    assert status == 422
    assert problem["errors"][0]["where"] == "query.limit"


async def test_statistics_as_the_monitor_has_them(it: Streaming) -> None:
    """GET /stats: the counters of all runs, the depth of each queue, and what each sender has settled."""
    await it.ledger.heartbeat("sender-1", 100, 3)
    await it.ledger.heartbeat("idle", 50, 0)
    await publish(it.ledger, "a", 10, 4)

    async def stats() -> Any:
        status, body = await it.get("/stats")
        assert status == 200
        return body if body["published"] == 10 else None

    body = await eventually(stats)

    assert body["senders"] == 2
    assert body["depths"] == await MemoryBroker().depths()
    assert [(share["sender"], share["share"]) for share in body["shares"]] == [
        ("sender-1", 1.0),
        ("idle", 0.0),
    ]


async def test_readers_cost_the_ledger_nothing(ledger: CountingLedger) -> None:
    """However many ask for the list and the statistics, the ledger is asked for one of them all, and the next ones."""
    await publish(ledger, "a", 10, 4)
    poller = Poller(ledger, MemoryBroker(), LiveLimits())
    seen = await asyncio.gather(
        *(poller.statistics() for _ in range(1000)), *(poller.runs(9) for _ in range(1000))
    )

    assert len(seen) == 2000
    assert ledger.looked == {None: 1, "a": 1}


async def test_accepted_and_at_once_in_the_list_and_the_statistics() -> None:
    """Whoever was answered 202 finds it there, whatever the last look saw."""
    async with running(sends=False) as gateway:
        for k in range(1, 4):
            uuid = (await gateway.send())["uuid"]
            _, stats = await gateway.get("/stats")
            _, runs = await gateway.get("/runs")
            assert stats["published"] == k
            assert [(run["run"], run["published"]) for run in runs["runs"]] == [(uuid.partition(".")[0], k)]


async def test_runs_that_are_over_cost_a_poll_nothing(ledger: CountingLedger) -> None:
    """Of a ledger full of runs only the open ones are read; the list reads each of the others once."""
    for number in range(999):
        await publish(ledger, f"old-{number}", 1, 1)
    await publish(ledger, "open", 10, 1)
    poller = Poller(ledger, MemoryBroker(), LiveLimits())
    changed: list[RunView] = []
    for settled in range(1, 4):
        await publish(ledger, "open", 10, settled)
        changed += (await poller.poll()).changed
    assert [(view.run, view.sent) for view in changed] == [("open", 2), ("open", 3)]
    assert ledger.looked == {None: 3, "open": 3}

    for _ in range(2):
        assert len(await poller.runs(1000)) == 1000
    assert {ledger.looked[f"old-{number}"] for number in range(999)} == {1}


async def test_many_open_runs_take_turns(ledger: CountingLedger) -> None:
    """A poll reads a bounded number of them, and none is left out for long."""
    for number in range(100):
        await publish(ledger, f"open-{number}", 10, 1)
    poller = Poller(ledger, MemoryBroker(), LiveLimits(runs_a_poll=20))
    for _ in range(5):
        assert (await poller.poll()).changed == []
    await publish(ledger, "open-50", 10, 2)
    ledger.looked.clear()
    changed = [view.run for _ in range(5) for view in (await poller.poll()).changed]
    assert changed == ["open-50"]
    assert {ledger.looked[f"open-{number}"] for number in range(100)} == {1}


async def test_a_new_run_is_reported_at_once_beside_many_open_ones(ledger: CountingLedger) -> None:
    """Also one that was over before it was seen; once, unless it changes again."""
    for number in range(20):
        await publish(ledger, f"open-{number}", 10, 1)
    poller = Poller(ledger, MemoryBroker(), LiveLimits(runs_a_poll=5, runs_kept=3))
    await poller.poll()
    await publish(ledger, "new", 10, 3)
    await publish(ledger, "short", 1, 1)
    reported = [(view.run, view.over) for view in (await poller.poll()).changed]
    assert reported == [("short", True), ("new", False)]
    assert (await poller.poll()).changed == []


async def test_a_run_reports_its_end_however_many_are_newer(ledger: CountingLedger) -> None:
    """It is known from when it was open."""
    await publish(ledger, "before-us", 10, 0)
    poller = Poller(ledger, MemoryBroker(), LiveLimits(runs_kept=5))
    await poller.poll()
    for number in range(20):
        await publish(ledger, f"new-{number}", 1, 1)
    await publish(ledger, "before-us", 10, 10)
    assert "before-us" in {view.run for view in (await poller.poll()).changed if view.over}
    ledger.looked.clear()
    await poller.poll()
    assert set(ledger.looked) == {None}
    assert [view.run for view in await poller.runs(10)] == [f"new-{k}" for k in (19, 18, 17, 16, 15)]


async def test_a_forgotten_run_is_gone(it: Streaming) -> None:
    """What was forgotten is neither listed nor found; its name begun again is a new run."""
    await publish(it.ledger, "a", 1, 1)

    async def names() -> list[str]:
        return [run["run"] for run in (await it.get("/runs"))[1]["runs"]]

    async def listed() -> bool:
        return await names() == ["a"]

    async def gone() -> bool:
        return await names() == []

    await eventually(listed)
    await it.ledger.forget("a")
    await eventually(gone)
    assert (await it.get("/runs/a"))[0] == 404
    await publish(it.ledger, "a", 2, 1)
    await eventually(listed)
    assert (await it.get("/runs"))[1]["runs"][0]["total"] == 2


class AskedBroker(MemoryBroker):
    """Notes how its depths are asked for; does not answer the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed: list[bool] = []

    async def depths(self, refresh: bool = True) -> dict[str, int]:
        self.refreshed.append(refresh)
        if len(self.refreshed) == 1:
            raise Unavailable("RabbitMQ is gone")
        return await super().depths(refresh)


@pytest.mark.parametrize(
    ("new_queues_s", "after_a_retry"), [(60.0, [False] * 3), (-1.0, [False, True, False])]
)
async def test_queues_are_looked_for_where_there_may_be_new_ones(
    ledger: CountingLedger, new_queues_s: float, after_a_retry: list[bool]
) -> None:
    """Until the broker has answered once, and then after a retry or a failure: not at each poll, and not too often."""
    broker = AskedBroker()
    poller = Poller(ledger, broker, LiveLimits(new_queues_s=new_queues_s))
    for _ in range(4):
        await poller.poll()
    assert broker.refreshed == [True, True, False, False]

    await ledger.begin("run", "", 2, "p")
    await ledger.announce("run", 0, 2)
    seqs = np.arange(2)
    await ledger.claim("run", seqs, redelivered=False)
    retries = np.full(2, Outcome.RETRY, np.uint8)
    await ledger.settle("run", Outcomes(seqs, retries, np.zeros(2, np.int64)))
    broker.refreshed.clear()
    for _ in range(3):
        await poller.poll()
    assert broker.refreshed == after_a_retry


async def test_a_run_that_moved_is_told_of_though_another_is_refused(ledger: CountingLedger) -> None:
    """The look fails, but what it has seen by then it tells: the next look finds nothing new in it."""
    await publish(ledger, "quiet", 1, 0)
    poller = Poller(ledger, MemoryBroker(), LiveLimits())
    await poller.poll()
    for run in ("moves", "refused"):
        await publish(ledger, run, 2, 0)
    ledger.refused = "refused"
    moved = (await poller.poll()).changed
    assert [view.run for view in moved] == ["moves"]
    ledger.refused = None
    moved = (await poller.poll()).changed
    assert [view.run for view in moved] == ["refused"]

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
from gateway.live import hub as hub_module
from gateway.live import watch as watch_module
from gateway.live.watch import Watch
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
async def it(ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streaming]:
    monkeypatch.setattr(hub_module, "LOOK_EVERY_S", 0.05)
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
    watch = Watch(ledger, MemoryBroker())
    seen = await asyncio.gather(*(watch.stats() for _ in range(1000)), *(watch.runs(9) for _ in range(1000)))

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


async def test_old_runs_are_looked_at_once(ledger: CountingLedger) -> None:
    """A ledger full of runs that are over costs one look each, a bounded number at a time; open ones come first."""
    for number in range(999):
        await publish(ledger, f"old-{number}", 1, 1)
    await publish(ledger, "open", 10, 1)
    watch = Watch(ledger, MemoryBroker())

    _, moved = await watch.look()
    assert ledger.looked["open"] == 1
    assert ledger.looked.total() - ledger.looked[None] == watch_module.RUNS_A_LOOK
    for _ in range(9):
        await publish(ledger, "open", 10, min(10, 1 + ledger.looked["open"]))
        _, more = await watch.look()
        moved += more

    assert {name for name in ledger.looked if ledger.looked[name] > 1} == {None, "open"}
    assert len(ledger.looked) == 1001
    assert {view.run for view in moved} == {"open"}
    assert len(await watch.runs(1000)) == 1000


async def test_many_open_runs_all_get_their_turn(
    ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that stand still are looked at in turn, so that none that moves again is missed for ever."""
    monkeypatch.setattr(watch_module, "QUIET_AFTER_S", -1.0)
    for number in range(100):
        await publish(ledger, f"open-{number}", 10, 1)
    watch = Watch(ledger, MemoryBroker())
    await watch.look()

    await publish(ledger, "open-50", 10, 2)
    moved: list[RunView] = []
    looks = 0
    while not moved:
        _, moved = await watch.look()
        looks += 1

    assert [view.run for view in moved] == ["open-50"]
    assert looks <= 100 // watch_module.QUIET_A_LOOK
    assert max(ledger.looked[f"open-{number}"] for number in range(100)) <= 2


async def test_runs_that_go_on_are_seen_beside_any_number_of_newer_ones(
    ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others no more than the newest are asked for. Those that go on are asked for once: then they are known."""
    monkeypatch.setattr(watch_module, "RUNS_KEPT", 5)
    await publish(ledger, "before-us", 10, 0)
    for number in range(20):
        await publish(ledger, f"old-{number}", 1, 1)
    ledger.asked.clear()
    watch = Watch(ledger, MemoryBroker())
    await watch.look()
    await publish(ledger, "known", 10, 0)
    await watch.look()
    for number in range(20):
        await publish(ledger, f"new-{number}", 1, 1)
    await publish(ledger, "known", 10, 3)
    await publish(ledger, "before-us", 10, 10)
    ledger.looked.clear()
    asked_for_all = ledger.asked[None]  # by `publish`
    _, moved = await watch.look()

    newest = {f"new-{number}" for number in range(15, 20)}
    assert {view.run: view.sent for view in moved if view.run not in newest} == {"known": 3, "before-us": 10}
    assert set(ledger.looked) == {None, "known", "before-us", *newest}
    await ledger.forget("before-us")
    ledger.looked.clear()
    await watch.look()
    assert set(ledger.looked) == {None, "known"}
    assert {view.run for view in await watch.runs(10)} == newest
    assert (ledger.asked[None], ledger.asked["open"]) == (asked_for_all, 1)


async def test_a_run_that_nobody_saw_when_it_was_new_is_found_later(
    ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away while more came than a look asks for: those of them that go on are asked for now and then."""
    monkeypatch.setattr(watch_module, "RUNS_KEPT", 5)
    for number in range(10):
        await publish(ledger, f"old-{number}", 1, 1)
    watch = Watch(ledger, MemoryBroker())
    await watch.look()
    await publish(ledger, "missed", 10, 3)
    for number in range(10):
        await publish(ledger, f"new-{number}", 1, 1)
    _, moved = await watch.look()
    assert "missed" not in {view.run for view in moved}
    monkeypatch.setattr(watch_module, "ASK_FOR_OPEN_EVERY_S", 0.0)
    _, moved = await watch.look()
    assert [view.run for view in moved] == ["missed"]


async def test_an_open_run_that_is_gone_is_not_asked_for_again(
    ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fell behind the newest is known to be there only by a look at it."""
    monkeypatch.setattr(watch_module, "RUNS_KEPT", 2)
    for run in ("open", "new", "newest"):
        await publish(ledger, run, 10, 0)
    watch = Watch(ledger, MemoryBroker())
    await watch.look()
    del ledger._runs["open"]
    await watch.look()
    ledger.looked.clear()
    await watch.look()
    assert set(ledger.looked) == {None, "new", "newest"}


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
        self.anew: list[bool] = []

    async def depths(self, anew: bool = True) -> dict[str, int]:
        self.anew.append(anew)
        if len(self.anew) == 1:
            raise Unavailable("RabbitMQ is gone")
        return await super().depths(anew)


async def test_queues_are_looked_for_anew_where_there_may_be_new_ones(
    ledger: CountingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the broker has once answered, and then after a retry or a failure: not each second, in vain."""
    broker = AskedBroker()
    watch = Watch(ledger, broker)
    for _ in range(4):
        await watch.look()
    assert broker.anew == [True, True, False, False]

    await ledger.begin("run", "", 2, "p")
    await ledger.announce("run", 0, 2)
    seqs = np.arange(2)
    await ledger.claim("run", seqs, redelivered=False)
    retries = np.full(2, Outcome.RETRY, np.uint8)
    await ledger.settle("run", Outcomes(seqs, retries, np.zeros(2, np.int64)))
    broker.anew.clear()
    for _ in range(2):
        await watch.look()
    assert broker.anew == [False, False], "QUEUES_ANEW_S have not passed"
    monkeypatch.setattr(watch_module, "QUEUES_ANEW_S", -1.0)
    for _ in range(2):
        await watch.look()
    assert broker.anew[2:] == [True, False]


async def test_a_run_that_moved_is_told_of_though_another_is_refused(ledger: CountingLedger) -> None:
    """The look fails, but what it has seen by then it tells: the next look finds nothing new in it."""
    await publish(ledger, "quiet", 1, 0)
    watch = Watch(ledger, MemoryBroker())
    await watch.look()
    for run in ("moves", "refused"):
        await publish(ledger, run, 2, 0)
    ledger.refused = "refused"
    _, moved = await watch.look()
    assert [view.run for view in moved] == ["moves"]
    ledger.refused = None
    _, moved = await watch.look()
    assert [view.run for view in moved] == ["refused"]

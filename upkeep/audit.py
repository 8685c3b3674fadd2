"""Audits the ledger: recounts every message's state and, at rest, compares with the bodies in the queues."""

import contextlib

from common.broker.port import Broker
from common.counters import COUNTERS, RECOUNTED
from common.errors import UnknownRun, UsageError
from common.ledger.port import Ledger, Reports
from common.ledger.values import Snapshot
from upkeep.comparison import TIMING, Comparison, Timing
from upkeep.findings import Audit, Difference, RunAudit

# Counts of a run whose counters differ. A moving counter differs by another value each time, a wrong one by the same.
LOOKS = 3


async def audit(
    broker: Broker,
    ledger: Ledger,
    queue: str,
    run: str | None = None,
    repair: bool = False,
    timing: Timing = TIMING,
) -> Audit:
    """Audits one run, or all runs. Of runs that go through another queue than `queue`, only the counters.

    `repair` settles as failed what is in no queue. Runs that can be resumed, and runs whose queue is not known, are
    repaired only as `run`. Raises UnknownRun; UsageError if not all is at rest for a repair; Unavailable if the queue
    is missing.
    """
    not_at_rest = await _not_at_rest(broker, ledger)
    if repair and not_at_rest:
        raise UsageError(f"--repair needs everything at rest, but {not_at_rest}")
    result = Audit([], not_at_rest)
    for name in [run] if run is not None else await ledger.runs():
        try:
            result.runs.append(await _recount(ledger, name))
        except UnknownRun:
            if run is not None:
                raise  # else it has just expired
    if not_at_rest:
        return result
    if run is None:
        result.totals = await _totals(ledger, result.runs)
    comparison = Comparison(broker, ledger, queue, result, by_name=run is not None, timing=timing)
    await comparison.compare(repair)
    if repair:
        # The comparison took its time: a process that was started meanwhile may hold messages.
        if not_at_rest := await _not_at_rest(broker, ledger):
            raise UsageError(f"--repair needs everything at rest, but {not_at_rest}; nothing was changed")
        await comparison.repair()
    return result


async def _not_at_rest(broker: Broker, ledger: Reports) -> str:
    """What is still at work; empty if everything is at rest."""
    senders = (await ledger.snapshot()).senders
    if senders:
        return f"{len(senders)} senders are alive or died within the last 10 s"
    if consumers := await broker.consumers():
        return f"{consumers} consumers hold the queues"
    for name in await ledger.runs():
        with contextlib.suppress(UnknownRun):  # it has just expired
            if (await ledger.publication(name)).publishing:
                return f"run {name} is being published, or its producer died within the last 15 s"
    return ""


async def _recount(ledger: Reports, run: str) -> RunAudit:
    """Compares the counters of a run with the states of its messages; again, if they differ."""
    found = [await _look(ledger, run)]
    while len(found) < LOOKS and (found[-1].moving or found[-1].differences):
        found.append(await _look(ledger, run))
    last = found[-1]
    if any(look.differences != last.differences for look in found):
        last.differences, last.moving = {}, True
    return last


async def _look(ledger: Reports, run: str) -> RunAudit:
    before = await ledger.snapshot(run)
    counted = await ledger.recount(run)
    now = await ledger.snapshot(run)
    moving = any(getattr(before, one.name) != getattr(now, one.name) for one in COUNTERS)
    found = RunAudit(run, queued=now.queued, retried=now.retried, moving=moving)
    for name, value in _counters(now).items():
        setattr(found, name, value)
    if not moving:
        found.differences = _differences(_counters(now), counted)
    return found


def _counters(now: Snapshot) -> dict[str, int]:
    """The counters that can be recounted."""
    return {name: getattr(now, name) for name in RECOUNTED}


def _differences(counters: dict[str, int], counted: dict[str, int]) -> dict[str, Difference]:
    return {
        name: Difference(counters[name], counted[name])
        for name in RECOUNTED
        if counters[name] != counted[name]
    }


async def _totals(ledger: Reports, runs: list[RunAudit]) -> dict[str, Difference]:
    """The counters of all runs that cannot be the sum of the runs'. Runs that are gone were settled."""
    totals = _counters(await ledger.snapshot())
    sums = {name: sum(getattr(run, name) for run in runs) for name in RECOUNTED}
    gone = {name: totals[name] - sums[name] for name in RECOUNTED}
    settled = gone["sent"] + gone["failed"]
    if gone["sending"] == 0 and gone["published"] == settled and min(gone.values()) >= 0:
        return {}
    return _differences(totals, sums)

"""What an audit finds: of each run, and of all runs together."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """Two values of a counter that should be the same.

    Attributes:
        counter: What the ledger's counter is.
        counted: What was counted.
    """

    counter: int
    counted: int


@dataclass
class RunAudit:
    """What the audit finds of a run.

    Attributes:
        differences: The counters that differ from the states of the messages.
        moving: Whether the counters changed during the count, so that nothing could be compared.
        missing: Messages that are neither sent nor failed, and in no queue.
        rejected: Messages that are neither sent nor failed, and in the rejected queue only.
        repaired: Messages that were missing and are now settled as failed.
        unfinished: Whether its producer ended before all was published, and another can resume it.
        by_gateway: Whether only a gateway can resume it.
        queue: The queue that it goes through, if that is known.
    """

    run: str
    published: int = 0
    queued: int = 0
    sending: int = 0
    sent: int = 0
    failed: int = 0
    differences: dict[str, Difference] = field(default_factory=dict)
    moving: bool = False
    retried: int = 0
    missing: int = 0
    rejected: int = 0
    repaired: int = 0
    unfinished: bool = False
    by_gateway: bool = False
    queue: str | None = None

    @property
    def right(self) -> bool:
        """Whether the record is right."""
        return not self.differences and self.missing == self.repaired


@dataclass
class Audit:
    """What the audit finds of all runs.

    Attributes:
        not_at_rest: Why the queues were not compared; empty if they were.
        bodies_in_queues: Bodies in the lanes and the retry queues.
        unusable_bodies: Those of them that are no batch.
        rejected_bodies: Bodies in the rejected queue.
        totals: The counters of all runs that are not the sum of the runs'.
    """

    runs: list[RunAudit]
    not_at_rest: str
    bodies_in_queues: int = 0
    unusable_bodies: int = 0
    rejected_bodies: int = 0
    totals: dict[str, Difference] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the record is right."""
        return not self.totals and all(run.right for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"right": self.right, **asdict(self)}


def report(result: Audit) -> list[str]:
    """The audit as text: a line for each run, then lines for all of them."""
    lines = [f"{run.run}: {of_run(run)}" for run in result.runs]
    lines += [
        f"all runs: {name} is {total.counter:,}, but the runs add up to {total.counted:,}"
        for name, total in result.totals.items()
    ]
    if result.not_at_rest:
        lines.append(f"the queues were not compared: {result.not_at_rest}")
    else:
        bodies, unusable = result.bodies_in_queues, result.unusable_bodies
        lines.append(
            f"{bodies:,} bodies in the queues, {unusable:,} of them no batch;"
            f" {result.rejected_bodies:,} in the rejected queue"
        )
    lines.append("the record is right" if result.right else "THE RECORD IS NOT RIGHT")
    return lines


def of_run(run: RunAudit) -> str:
    """The findings of a run in one line."""
    parts = [
        f"published {run.published:,} = queued {run.queued:,} + sending {run.sending:,} + sent {run.sent:,}"
        f" + failed {run.failed:,}"
    ]
    if run.moving:
        parts.append("moves too fast to be recounted")
    parts += [
        f"{name} IS {difference.counter:,}, BUT {difference.counted:,} WERE COUNTED"
        for name, difference in run.differences.items()
    ]
    if run.repaired:
        parts.append(f"{run.repaired:,} that were in no queue are now failed")
    elif run.missing:
        how = "--repair" if run.queue else f"--repair --run {run.run}"
        parts.append(f"{run.missing:,} ARE IN NO QUEUE ({how} settles them as failed)")
    if run.rejected:
        where = f"{run.queue}.rejected" if run.queue else "the rejected queue"
        parts.append(
            f"{run.rejected:,} are in {where}, where a policy of RabbitMQ has put them"
            " (smsim replay --rejected sends them as a new run)"
        )
    if run.unfinished:
        parts.append(f"{_how_to_finish(run)}, or give it up with smsim audit --repair --run {run.run}")
    return "; ".join(parts)


def _how_to_finish(run: RunAudit) -> str:
    if run.by_gateway:
        return "its gateway ended early: a running gateway finishes it"
    return f"its producer ended early: continue it with producer.py --resume {run.run}"

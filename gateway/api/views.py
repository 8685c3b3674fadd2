"""The JSON of runs, statistics and events: what GET /runs, GET /stats and the streams of /events say."""

from typing import Annotated

import msgspec
from msgspec import Meta

from common.ledger.values import Snapshot
from common.messages import RUN_PATTERN
from common.statistics import Statistics, statistics
from common.tracking import wire
from common.tracking.port import Status, Step

# The senders that have settled the most are listed.
SHARES_SHOWN = 100

Count = Annotated[int, Meta(ge=0)]
Run = Annotated[str, Meta(pattern=RUN_PATTERN, examples=["20261121-072613-24a5b446cc10"])]


class RunView(Statistics, frozen=True, kw_only=True):
    """A run and its progress."""

    run: Run
    total: Annotated[
        int | None, Meta(description="how many messages it will have; null while it is not known")
    ]
    progress: Annotated[
        float | None, Meta(description="share that is sent or failed, 0 to 1; null while `total` is")
    ]
    over: Annotated[bool, Meta(description="whether all of it is sent or failed, and no more will come")]


class Share(msgspec.Struct, frozen=True):
    """A sender, and its share of what the listed senders have settled."""

    sender: str
    slots: Annotated[int, Meta(ge=0, description="how many messages it can send at once")]
    in_flight: Annotated[int, Meta(ge=0, description="as it last reported: up to a second old")]
    sent: Count
    failed: Count
    share: Annotated[float, Meta(ge=0, le=1)]


class StatsView(Statistics, frozen=True, kw_only=True):
    """The statistics of all runs, the depth of each queue, and the senders' shares (the busiest 100)."""

    depths: Annotated[
        dict[str, int] | None,
        Meta(description="bodies waiting in each queue; null while the broker does not answer"),
    ]
    shares: list[Share]


class RunList(msgspec.Struct, frozen=True):
    """Runs, newest first."""

    runs: list[RunView]


class RunEvent(RunView, frozen=True, tag_field="type", tag="run"):
    """A run moved within the last second, or has come to its end."""


class StatisticsEvent(StatsView, frozen=True, tag_field="type", tag="statistics"):
    """The statistics, each second."""


class MessageEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="message"):
    """Something happened to a tracked message. Steps may come in another order than they happened."""

    run: Run
    uuid: Annotated[str, Meta(description="the message id", examples=["20261121-072613-24a5b446cc10.0"])]
    status: Status
    attempt: Annotated[int, Meta(ge=0, description="0 for the acceptance, else from 1")]
    at: Annotated[
        str, Meta(description="UTC, ISO 8601, to the microsecond", examples=["2026-11-21T07:26:13.123456Z"])
    ]
    number: Annotated[str, Meta(examples=["+541166587382"])]
    text: str
    time_s: Annotated[float | None, Meta(description="seconds that the send took, once it has ended")] = None


Event = MessageEvent | RunEvent | StatisticsEvent


def run_view(run: str, now: Snapshot, before: Snapshot | None = None) -> RunView:
    """The view of a run. Its rate is that since `before`; of a run that is over, the mean of the whole run."""
    over = 0 < now.total <= now.settled and now.settled >= now.published
    return RunView(
        run=run,
        total=now.total or None,
        progress=min(1.0, now.settled / max(now.total, now.published)) if now.total else None,
        over=over,
        **statistics(now, None if over else before).as_json(),
    )


def stats_view(now: Snapshot, before: Snapshot | None, depths: dict[str, int] | None) -> StatsView:
    """The view of all runs."""
    return StatsView(depths=depths, shares=_shares(now), **statistics(now, before).as_json())


def run_event(view: RunView) -> bytes:
    """A `RunEvent`, as JSON."""
    return b'{"type":"run",' + msgspec.json.encode(view)[1:]


def statistics_event(view: StatsView) -> bytes:
    """A `StatisticsEvent`, as JSON."""
    return b'{"type":"statistics",' + msgspec.json.encode(view)[1:]


def message_event(step: Step) -> bytes:
    """A `MessageEvent`, as JSON: the step as published on Redis, and a type."""
    return b'{"type":"message",' + wire.encode_step(step)[1:]


def _shares(now: Snapshot) -> list[Share]:
    settled = {name: status.sent + status.failed for name, status in now.senders.items()}
    whole = sum(settled.values())
    busiest = sorted(settled, key=lambda name: (-settled[name], name))[:SHARES_SHOWN]
    return [
        Share(
            sender=name,
            slots=now.senders[name].slots,
            in_flight=min(now.senders[name].in_flight, now.sending),
            sent=now.senders[name].sent,
            failed=now.senders[name].failed,
            share=round(settled[name] / whole, 4) if whole else 0.0,
        )
        for name in busiest
    ]

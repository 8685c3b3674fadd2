"""GET /runs, GET /runs/{run} and GET /stats."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.counters import Counters
from common.errors import UnknownRun
from common.messages import is_run_id
from common.web.keys.port import Caller
from common.web.operations import Answer, Operation, Parameter, Scope
from common.web.problems import FieldError, Problem
from common.web.responses import json_response
from common.web.validation import invalid, must_be
from gateway.api.views import Run, RunList, RunView, StatsView, run_view
from gateway.live.poller import Poller
from gateway.owners import Owners

MOST_RUNS = 1000
RUNS_UNLESS_SAID = 100

Limit = Annotated[int, Meta(ge=1, le=MOST_RUNS)]

_FIGURES = {
    **msgspec.structs.asdict(Counters(published=1000, sending=100, sent=630, failed=70)),
    "queued": 200,
    "avg_time_s": 2.001,
    "p50_s": 1.99,
    "p95_s": 2.33,
    "p99_s": 2.47,
    "rate_per_s": 50.0,
    "senders": 1,
    "elapsed_s": 14.2,
    "eta_s": 6.0,
}
_RUN = {**_FIGURES, "run": "20261121-072613-24a5b446cc10", "total": 1000, "progress": 0.7, "over": False}
_SHARE = {"sender": "sender-1", "slots": 100, "in_flight": 100, "sent": 630, "failed": 70, "share": 1.0}
_LIMIT = Parameter(
    name="limit",
    where="query",
    description=f"how many, 1 to {MOST_RUNS}; {RUNS_UNLESS_SAID} unless given",
    kind=Limit,
    example=10,
)
_NAME = Parameter(
    name="run",
    where="path",
    description="the run's name",
    kind=Run,
    example="20261121-072613-24a5b446cc10",
    required=True,
)
_STATS = {**_FIGURES, "depths": {"sms_queue": 12, "sms_queue.urgent": 0}, "shares": [_SHARE]}


class Runs:
    """Shows what the ledger has now. Concurrent requests share a read."""

    def __init__(self, poller: Poller, owners: Owners) -> None:
        self._poller = poller
        self._owners = owners

    def operations(self) -> list[Operation]:
        """The endpoints."""
        return [
            Operation(
                method="GET",
                path="/runs",
                handler=self._list,
                scope=Scope.READ,
                tag="runs",
                summary="Runs and their progress, newest first",
                description=(
                    "As of now: everything that was accepted before the request is in it. A key without the scope `all`"
                    f" gets its own runs among the newest {MOST_RUNS:,}."
                ),
                parameters=(_LIMIT,),
                answers={200: Answer("runs", kind=RunList, example={"runs": [_RUN]})},
            ),
            Operation(
                method="GET",
                path="/runs/{run}",
                handler=self._one,
                scope=Scope.READ,
                tag="runs",
                summary="One run and its progress",
                parameters=(_NAME,),
                answers={200: Answer("the run", kind=RunView, example=_RUN), 404: Answer("no such run")},
            ),
            Operation(
                method="GET",
                path="/stats",
                handler=self._stats,
                scope=Scope.READ,
                of_all=True,
                tag="runs",
                summary="The statistics of all runs, queue depths and the senders' shares",
                description="The monitor's fields, and more. As of now; `in_flight`, up to a second old.",
                answers={200: Answer("the statistics", kind=StatsView, example=_STATS)},
            ),
        ]

    async def _list(self, request: Request) -> Response:
        caller: Caller = request.state.caller
        limit = _limit(request)
        runs = await self._poller.runs(limit if caller.sees_all else MOST_RUNS)
        if not caller.sees_all:
            await self._owners.learn(view.run for view in runs)
            runs = [view for view in runs if self._owners.has(caller.id, view.run)][:limit]
        return json_response(RunList(runs))

    async def _one(self, request: Request) -> Response:
        run = request.path_params["run"]
        try:
            if not is_run_id(run):
                raise UnknownRun
            await self._owners.check(request.state.caller, run)
            now = await self._poller.snapshot(run)
        except UnknownRun:
            raise Problem(404, "there is no such run, or it was forgotten: GET /runs lists them") from None
        return json_response(run_view(run, now, self._poller.earlier(run)))

    async def _stats(self, _: Request) -> Response:
        return json_response(await self._poller.statistics())


def _limit(request: Request) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return RUNS_UNLESS_SAID
    # int() accepts underscores, spaces and any number of digits.
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= limit <= MOST_RUNS:
        raise invalid([FieldError("query.limit", must_be(Limit))])
    return limit

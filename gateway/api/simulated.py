"""POST /runs: publishes random messages in the background, to numbers that belong to nobody.

They are simulated, whatever PROVIDER is, and count for the limits of rates as messages that are really sent.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.background import end
from common.broker.port import Broker
from common.errors import RunExists, SmsimError, UnknownRun
from common.ledger.port import Ledger
from common.messages import MAX_BATCH_MESSAGES, new_run_id
from common.publishing.random import RandomSource
from common.publishing.recipes import recipe_text
from common.publishing.run import Job, RunPublisher
from common.web.bodies import decoded_body
from common.web.keys.port import Caller, Kind
from common.web.operations import JSON, Answer, Body, Operation, Scope
from common.web.problems import FieldError, Problem
from common.web.rate import RateLimiter
from common.web.responses import json_response
from common.web.routing import audit_done
from common.web.validation import invalid
from gateway.api.schemas import MAX_BATCH_ITEMS, Priority, RunName

log = logging.getLogger(__name__)

MAX_RUN_MESSAGES = 10_000_000


class RunIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A simulated run: random messages to numbers that belong to nobody."""

    num_messages: Annotated[int, Meta(ge=1, le=MAX_RUN_MESSAGES, examples=[1000])]
    batch_size: Annotated[int, Meta(ge=1, le=MAX_BATCH_MESSAGES)] = 100
    priority: Priority = Priority.NORMAL
    run: Annotated[RunName | None, Meta(description="its name; a new one is made unless given")] = None


class RunStarted(msgspec.Struct, frozen=True):
    """A simulated run that is being published."""

    run: RunName
    num_messages: int


_decoder = msgspec.json.Decoder(RunIn)


class SimulatedRuns:
    """Publishes simulated runs, `at_once` of them at the same time, within `rates`.

    `check_memory` raises Problem while no run may begin.
    `close` leaves those that are not finished to `producer.py --resume`.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        gateway: str,
        *,
        check_memory: Callable[[], None],
        queue: str | None = None,
        rates: RateLimiter | None = None,
        at_once: int = 4,
    ) -> None:
        self._check_memory = check_memory
        self._rates = rates or RateLimiter(None, None)
        self._at_once = at_once
        self._broker = broker
        self._ledger = ledger
        self._gateway = gateway
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """Its endpoint."""
        return [
            Operation(
                method="POST",
                path="/runs",
                handler=self._post,
                scope=Scope.SEND,
                tag="runs",
                summary="Start a simulated run",
                description=(
                    "Publishes random messages, to numbers with the country code 999, which is assigned to no country."
                    " They are simulated, whatever the provider is. They count for the limits of rates; where there"
                    f" are any, a run has at most {MAX_BATCH_ITEMS:,} messages."
                ),
                body=Body({JSON: RunIn}, examples={"thousand": {"num_messages": 1000}}),
                answers={
                    202: Answer(
                        "It is being published",
                        kind=RunStarted,
                        example=RunStarted("20261121-072613-9f3a", 1000),
                        headers={"Location": "where its progress is: `/runs/{run}`"},
                    ),
                    409: Answer("A run of this name exists"),
                },
            )
        ]

    async def close(self) -> None:
        """Stops publishing."""
        await end(self._tasks)

    async def _post(self, request: Request) -> Response:
        asked = await decoded_body(request, _decoder)
        caller: Caller = request.state.caller
        if caller.kind is Kind.TEAM:
            raise Problem(403, "a team key sends to its listed numbers only, and these go to others")
        if self._rates.is_limited and asked.num_messages > MAX_BATCH_ITEMS:
            what = f"must be {MAX_BATCH_ITEMS:,} or less where GATEWAY_RATE or GATEWAY_KEY_RATE is set"
            raise invalid([FieldError("body.num_messages", what)])
        if len(self._tasks) >= self._at_once:
            what = f"{self._at_once} runs are being published: wait for one to end"
            raise Problem(429, what, retry_after_s=5)
        self._check_memory()
        self._rates.take(caller, asked.num_messages)
        run = asked.run or new_run_id()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nothing was awaited since the check: this takes the place.
        task = asyncio.create_task(self._begin_and_publish(run, asked, begun, caller.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await begun
        except RunExists:
            self._rates.give_back(caller, asked.num_messages)
            raise Problem(409, f"run {run} exists already: choose another name") from None
        audit_done(request, messages=asked.num_messages, id=run)
        return json_response(RunStarted(run, asked.num_messages), 202, {"Location": f"/runs/{run}"})

    async def _begin_and_publish(
        self, run: str, asked: RunIn, begun: "asyncio.Future[None]", owner: str
    ) -> None:
        """`begun` is done once the run is open. If it was cancelled before, nobody waits, and the run is removed."""
        source = RandomSource(asked.num_messages, secrets.randbits(63))
        producer = f"{self._gateway}-{secrets.token_hex(4)}"  # so that a second request for this name fails
        try:
            recipe = self._recipe(source, asked, owner)
            if await self._begin(run, asked, recipe, producer, begun):
                job = Job(
                    run=run,
                    source=source,
                    batch_size=asked.batch_size,
                    lane=asked.priority.lane,
                    simulated=True,
                )
                await RunPublisher(self._broker, self._ledger, job).publish()
        except SmsimError as error:
            log.error("run_broke_off", extra={"run": run, "reason": str(error)})
            await self._ledger.leave(run, producer)
        except asyncio.CancelledError:
            begun.cancel()
            await self._ledger.leave(run, producer)
            raise

    async def _begin(
        self, run: str, asked: RunIn, recipe: str, producer: str, begun: "asyncio.Future[None]"
    ) -> bool:
        """Opens the run and completes `begun`. False if it could not be opened, or nobody waits for it."""
        try:
            await self._ledger.begin(run, recipe, asked.num_messages, producer)
        except Exception as error:  # noqa: BLE001  # the request answers with it
            if not begun.done():
                begun.set_exception(error)
            return False
        if begun.cancelled():
            await self._remove(run)
            return False
        begun.set_result(None)
        return True

    def _recipe(self, source: RandomSource, asked: RunIn, owner: str) -> str:
        """What `producer.py --resume` needs to make the same messages again."""
        recipe = source.recipe(asked.batch_size, asked.priority.lane)
        return recipe_text(msgspec.structs.replace(recipe, queue=self._queue, owner=owner, simulated=True))

    async def _remove(self, run: str) -> None:
        """Ends a run that was begun a moment ago, and frees its name."""
        with contextlib.suppress(UnknownRun):
            await self._ledger.close_run(run)
            await self._ledger.forget(run)

"""POST /runs: publishes random messages in the background, to numbers that belong to nobody."""

import asyncio
import contextlib
import logging
import secrets

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.background import end
from common.broker.port import Broker
from common.errors import RunExists, SmsimError, UnknownRun
from common.ledger.port import Ledger
from common.messages import new_run_id
from common.publishing.publish import Producer
from common.publishing.random_source import RandomSource
from common.web.answers import json_answer
from common.web.bodies import decoded_body
from common.web.operations import JSON, Answer, Body, Operation, Scope
from common.web.problems import Problem
from gateway.api.schemas import RunIn, RunStarted

log = logging.getLogger(__name__)

# Runs that are published at the same time.
MOST_AT_ONCE = 4

_decoder = msgspec.json.Decoder(RunIn)


class SimulatedRuns:
    """Publishes simulated runs; `close` leaves those that are not finished to `producer.py --resume`."""

    def __init__(self, broker: Broker, ledger: Ledger, gateway: str, queue: str | None = None) -> None:
        self._broker = broker
        self._ledger = ledger
        self._gateway = gateway
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """Its endpoint."""
        return [
            Operation(
                "POST",
                "/runs",
                self._post,
                Scope.SEND,
                "runs",
                "Start a simulated run",
                {
                    202: Answer(
                        "It is being published",
                        RunStarted,
                        RunStarted("20261121-072613-9f3a", 1000),
                        headers={"Location": "where its progress is: `/runs/{run}`"},
                    ),
                    409: Answer("A run of this name exists"),
                },
                "Publishes random messages, to numbers with the country code 999, which is assigned to no country.",
                body=Body({JSON: RunIn}, {"thousand": {"num_messages": 1000}}),
            )
        ]

    async def close(self) -> None:
        """Stops publishing."""
        await end(self._tasks)

    async def _post(self, request: Request) -> Response:
        asked = await decoded_body(request, _decoder)
        if len(self._tasks) >= MOST_AT_ONCE:
            raise Problem(
                429, f"{MOST_AT_ONCE} runs are being published: wait for one to end", retry_after_s=5
            )
        run = asked.run or new_run_id()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nothing is awaited since the look: its place is taken now.
        task = asyncio.create_task(self._begin_and_publish(run, asked, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await begun
        except RunExists:
            raise Problem(409, f"run {run} exists already: choose another name") from None
        return json_answer(RunStarted(run, asked.num_messages), 202, {"Location": f"/runs/{run}"})

    async def _begin_and_publish(self, run: str, asked: RunIn, begun: "asyncio.Future[None]") -> None:
        """`begun` is done once the run is open; if it is cancelled by then, nobody waits, and the run goes again."""
        source, lane = RandomSource(asked.num_messages, secrets.randbits(63)), asked.priority.lane
        made = msgspec.structs.replace(source.recipe(asked.batch_size, lane), queue=self._queue)
        recipe = msgspec.json.encode(made).decode()
        producer = f"{self._gateway}-{secrets.token_hex(4)}"  # a second request for this name is another's
        try:
            try:
                await self._ledger.begin(run, recipe, asked.num_messages, producer)
            except Exception as error:  # noqa: BLE001  # for the request to tell
                if not begun.done():
                    begun.set_exception(error)
                return
            if begun.cancelled():
                await self._take_back(run)
                return
            begun.set_result(None)
            await Producer(self._broker, self._ledger).publish(run, source, asked.batch_size, lane)
        except SmsimError as error:
            log.error("run_broke_off", extra={"run": run, "reason": str(error)})
            await self._ledger.leave(run, producer)
        except asyncio.CancelledError:
            begun.cancel()
            await self._ledger.leave(run, producer)
            raise

    async def _take_back(self, run: str) -> None:
        """Ends a run that was begun just now, by us, and frees its name."""
        with contextlib.suppress(UnknownRun):
            await self._ledger.close_run(run)
            await self._ledger.forget(run)

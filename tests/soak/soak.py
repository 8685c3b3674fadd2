"""A steady load over a long time, on a gateway too, while senders are restarted: exact totals, and memory's trend."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import TypeVar

import aiohttp

from common.errors import UnknownRun
from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.e2e.test_gateway import Gateway
from tests.gateway.running import NUMBER
from tests.servers import RabbitServer, RedisServer
from tests.soak.samples import Sampler
from tests.waiting import eventually

T = TypeVar("T")

BATCH_SIZE = 20
# Marks the samples of a sender that is restarted.
ALL_LIVES = "(all of its lives)"
MEAN_PROCESSING_S = 0.1
MAX_ATTEMPTS = 3
RESTARTED_SENDERS = 2
KILLED_SHARE = 0.25
# A settled run is kept for 1.5 minutes, so that the memory of Redis levels off soon.
RUN_TTL_DAYS = 0.001
MESSAGE_TTL_HOURS = 0.025
POST_EVERY_S = 0.1
# Generous: a busy machine may have a backlog; a hang must end.
SETTLED_WITHIN_S = 300.0
AT_REST_WITHIN_S = 60.0
START_DEADLINE_S = 60.0
END_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.5
# Senders have twice the slots that the load needs, since one of three may be down.
SPARE = 2.0


@dataclass(frozen=True)
class Load:
    """The load and its schedule.

    Attributes:
        seconds: How long it lasts.
        rate: Messages a second.
        restart_every_s: The time between restarts of a sender.
        wave_every_s: The time between producers.
        sample_every_s: The time between samples.
        posts: Messages a second that are posted to the gateway, besides.
    """

    seconds: float
    rate: int
    restart_every_s: float
    wave_every_s: float
    sample_every_s: float
    posts: int

    @property
    def slots(self) -> int:
        """The slots of each sender."""
        return max(1, round(SPARE * (self.rate + self.posts) * MEAN_PROCESSING_S / (1 + RESTARTED_SENDERS)))


@dataclass
class Account:
    """What happened.

    Attributes:
        runs: Runs begun.
        published: Messages published, those that the gateway accepted among them.
        accepted: Messages that the gateway answered with 202.
        stopped: Senders stopped with SIGTERM.
        killed: Senders killed with SIGKILL.
        totals: The counters over all runs at the end.
        elapsed_s: How long it took.
        troubles: All violations.
    """

    runs: int = 0
    published: int = 0
    accepted: int = 0
    stopped: int = 0
    killed: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    troubles: list[str] = field(default_factory=list)


class Soak:
    """The pipeline, the load on it, and the observations."""

    def __init__(self, pipeline: Pipeline, load: Load, seed: int) -> None:
        self.account = Account()
        self.sampler = Sampler()
        self._pipeline = pipeline
        self._load = load
        self._random = random.Random(seed)
        self._steady: dict[str, Launched] = {}
        self._gateway = Gateway(pipeline)
        self._restarted: dict[str, Launched] = {}
        self._senders = 0
        self._begun: list[asyncio.Task[None]] = []
        self._asking = asyncio.Lock()

    async def run(self) -> None:
        """Publishes, restarts and samples until the time is up, then waits for the runs that have begun."""
        began = time.monotonic()
        await self._gateway.start()
        self._steady = {
            "sender": self._pipeline.sender("--name", "steady"),
            "monitor": self._pipeline.monitor("--update-interval", 5),
            "gateway": self._gateway.process,
        }
        for k in range(RESTARTED_SENDERS):
            await self._start(f"restarted-{k}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._load.seconds), asyncio.TaskGroup() as tasks:
                for job in (self._publish(), self._post(), self._restart(), self._sample()):
                    tasks.create_task(job)
        try:
            async with asyncio.timeout(SETTLED_WITHIN_S):
                await asyncio.gather(*self._begun)
        except TimeoutError:
            self._trouble(f"not all was settled {SETTLED_WITHIN_S:g} s after the load had ended")
        await self._end()
        self.account.elapsed_s = time.monotonic() - began

    async def _publish(self) -> None:
        """Begins runs at a steady rate."""
        messages = round(self._load.rate * self._load.wave_every_s)
        while True:
            run = f"soak-{self.account.runs}"
            self.account.runs += 1
            self.account.published += messages
            self._begin(self._follow(run, messages))
            await asyncio.sleep(self._load.wave_every_s)

    async def _follow(self, run: str, messages: int) -> None:
        """Publishes one run and checks that it settles exactly."""
        producer = self._pipeline.producer("--num-messages", messages, "--run", run)
        if await producer.ended() != 0:
            self._trouble(f"the producer of {run} failed: {producer.stderr[-300:]}")
            return
        while (now := await self._ask(self._pipeline.ledger.snapshot(run))).settled < messages:
            await asyncio.sleep(LOOK_EVERY_S)
        try:
            counted = await self._ask(self._pipeline.ledger.recount(run))
        except UnknownRun:
            self._trouble(f"{run} expired as soon as it was settled")
            return
        counters = {name: getattr(now, name) for name in ("published", "sending", "sent", "failed")}
        if counted != counters or now.published != messages or now.settled != messages:
            self._trouble(f"{run}: {messages} published, the counters say {counters}, the states {counted}")

    async def _post(self) -> None:
        """Posts messages at a steady rate."""
        async with self._gateway.client() as http:
            posting: list[asyncio.Task[None]] = []
            try:
                while True:
                    posting = [task for task in posting if not task.done()]
                    posting.append(self._begin(self._post_some(http, round(self._load.posts * POST_EVERY_S))))
                    await asyncio.sleep(POST_EVERY_S)
            finally:
                await asyncio.gather(*posting)

    async def _post_some(self, http: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            async with http.post("/sms", json={"number": NUMBER, "text": "hello"}) as answer:
                if answer.status != HTTPStatus.ACCEPTED:
                    self._trouble(f"the gateway answered {answer.status}: {await answer.text()}")
                    continue
                self.account.accepted += 1
                self.account.published += 1

    async def _ask(self, question: Coroutine[None, None, T]) -> T:
        """Asks one question at a time, so that the soak itself uses a single connection."""
        async with self._asking:
            return await question

    async def _restart(self) -> None:
        """Replaces one sender after the other."""
        while True:
            for name in list(self._restarted):
                await asyncio.sleep(self._load.restart_every_s)
                await asyncio.shield(self._begin(self._replace(name)))

    async def _replace(self, name: str) -> None:
        """Starts a new sender, then stops the former one, or kills it in one of four cases."""
        former = self._restarted[name]
        await self._start(name)
        if self._random.random() < KILLED_SHARE:
            self.account.killed += 1
            former.signal(SIGKILL)
        else:
            self.account.stopped += 1
            await self._stop(former)

    async def _start(self, name: str) -> None:
        self._senders += 1
        sender = self._pipeline.sender("--name", f"{name}-{self._senders}")
        self._restarted[name] = sender
        # Before this, a signal would kill it.
        await eventually(lambda: sender.logged("sender_started"), START_DEADLINE_S, f"{name} starts")

    async def _stop(self, launched: Launched) -> None:
        """Stops a process with SIGTERM, which must end cleanly."""
        launched.signal(SIGTERM)
        code = await launched.ended(END_DEADLINE_S)
        if code != 0 or "Traceback" in launched.stderr:
            self._trouble(f"{launched.name} ended with {code}: {launched.stderr[-500:]}")

    async def _sample(self) -> None:
        while True:
            for name, launched in self._steady.items():
                if not launched.runs:
                    self._trouble(f"the {name} ended by itself: {launched.stderr[-500:]}")
                self.sampler.take(name, launched.pid)
            for name, server in (("redis", self._pipeline.redis_server), ("rabbitmq", self._pipeline.rabbit)):
                if server.pid is not None:
                    self.sampler.take(name, server.pid)
            for name, launched in self._restarted.items():
                self.sampler.take(f"{name} {ALL_LIVES}", launched.pid)
            await asyncio.sleep(self._load.sample_every_s)

    async def _end(self) -> None:
        """Stops all processes and checks the totals."""
        try:
            await eventually(self._at_rest, AT_REST_WITHIN_S, "nothing waits in a queue or is in flight")
        except TimeoutError as error:
            self._trouble(str(error))
        for launched in (*self._steady.values(), *self._restarted.values()):
            await self._begin(self._stop(launched))
        self.account.totals = self._pipeline.hash("sms:stats")
        published, totals = self.account.published, self.account.totals
        settled = totals.get("sent", 0) + totals.get("failed", 0)
        if (totals.get("published"), settled, totals.get("sending")) != (published, published, 0):
            self._trouble(f"{published} published, and the totals are {totals}")
        if left := {name: depth for name, depth in self._pipeline.depths().items() if depth}:
            self._trouble(f"left in queues: {left}")

    async def _at_rest(self) -> bool:
        now = await self._pipeline.ledger.snapshot()
        waits = any(self._pipeline.depths().values()) or any(one.in_flight for one in now.senders.values())
        return not waits and now.settled == now.published

    def _begin(self, job: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Starts a task that may outlast the load. A timeout in it is a trouble."""

        async def do() -> None:
            try:
                await job
            except TimeoutError as error:
                self._trouble(str(error))

        self._begun.append(asyncio.create_task(do()))
        return self._begun[-1]

    def _trouble(self, what: str) -> None:
        self.account.troubles.append(what)


@asynccontextmanager
async def open_soak(
    load: Load, seed: int, folder: Path, rabbit: RabbitServer, redis: RedisServer
) -> AsyncIterator[Soak]:
    """A soak on servers that nothing else uses. Its processes end on exit."""
    pipeline = Pipeline(folder, rabbit, redis, "soak")
    pipeline.use(
        BATCH_SIZE=BATCH_SIZE,
        MEAN_PROCESSING_TIME=MEAN_PROCESSING_S,
        PROCESSING_TIME_DISTRIBUTION="exponential",
        FAILURE_RATE=0.02,
        MAX_ATTEMPTS=MAX_ATTEMPTS,
        RETRY_BACKOFF=0.25,
        SENDER_CONCURRENCY=load.slots,
        RUN_TTL=RUN_TTL_DAYS,
        MESSAGE_TTL=MESSAGE_TTL_HOURS,
    )
    await pipeline.open()
    try:
        yield Soak(pipeline, load, seed)
    finally:
        await pipeline.shut()

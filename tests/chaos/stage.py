"""The setting of one run of the suite: servers, proxies in front of them, provider, senders, producers."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import pika
from redis.exceptions import RedisError

from common.broker.topology import Queue
from common.messages import Lane
from common.redis import cancellable
from tests.chaos.audit import Books, contradictions, read_books, shrunk
from tests.chaos.plan import Plan, Wave
from tests.chaos.proxy import Proxy
from tests.e2e.pipeline import REDIS_DB, Pipeline
from tests.e2e.processes import Launched
from tests.runners import free_port
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

RETRY_BACKOFF_S = 0.25
LONGEST_RETRY_S = 2.0
# How often the whole books are read, and how often the progress alone.
POLL_S = 0.2
LOOK_S = 0.02
START_DEADLINE_S = 60.0
RESUME_EVERY_S = 2.0
TOLD_TO_END = {-SIGKILL, -SIGINT, 130, 143}

POISONS: tuple[Callable[[str], bytes], ...] = (
    lambda mark: f"no JSON {mark}".encode(),
    lambda mark: f'{{"run": "{mark}"}}'.encode(),
    lambda mark: f'{{"run": "{mark}", "attempt": 1, "track": false, "messages": []}}'.encode(),
    lambda mark: f'{{"run": "{mark}", "messages": [[-1, "+358401234567", "text"]]}}'.encode(),
    lambda mark: f'{{"run": "{mark}", "messages": [[0, "+358401234567", "{"x" * 1601}"]]}}'.encode(),
    lambda mark: b'{"run": "\xff' + mark.encode(),
    lambda mark: json.dumps({"run": mark, "messages": [[1, "+358401234567", "twice"]] * 2}).encode(),
    lambda mark: json.dumps({"run": mark, "messages": [[k, "", ""] for k in range(10_001)]}).encode(),
)


class Stage(Pipeline):
    """A running pipeline for faults to strike. `troubles` collects every violation.

    Attributes:
        may_go_back: Whether the books may show less than before: what a primary that died had told nobody.
    """

    def __init__(
        self, folder: Path, rabbit: RabbitServer, redis: RedisServer, plan: Plan, queue: str
    ) -> None:
        super().__init__(folder, rabbit, redis, queue)
        self.plan = plan
        self.troubles: list[str] = []
        self.notes: dict[str, Any] = {}
        self.amqp = Proxy(rabbit.host, rabbit.port)
        self.resp = Proxy(redis.host, redis.port)
        self.record = folder / "record"
        self.senders: dict[str, Launched] = {}
        self.producing: dict[str, Launched] = {}
        self.poison: set[bytes] = set()
        self.polls = 0
        self.may_go_back = False
        self.last: Books | None = None
        self._provider: Launched | None = None
        self._provider_port = free_port()
        self.http = Proxy("127.0.0.1", self._provider_port)
        self._announced: set[str] = set()
        self._told_to_end: set[int] = set()
        self._books = redis.async_observer(REDIS_DB)
        self.use(
            MAX_ATTEMPTS=plan.max_attempts,
            RETRY_BACKOFF=RETRY_BACKOFF_S,
            KEEP_FAILED=plan.keep_failed,
            BATCH_SIZE=plan.batch_size,
            SENDER_CONCURRENCY=plan.slots,
            PROVIDER="http",
            PROVIDER_URL=f"http://127.0.0.1:{self._provider_port}/sms",
            PROVIDER_TIMEOUT=5,
            **plan.settings,
        )

    # -- before and after ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Starts everything but the producers."""
        await super().open()
        await asyncio.to_thread(self._declare_queues)
        self.start_provider()
        for k in range(self.plan.senders):
            self.start_sender(f"sender-{k}")
        await eventually(self.all_started, START_DEADLINE_S, "senders and provider have started")

    async def shut(self) -> None:
        """Ends all processes and connections."""
        for proxy in (self.amqp, self.resp, self.http):
            await proxy.close()
        self.close()
        await self._books.aclose()
        await self.ledger.close()
        self.redis.close()
        await asyncio.to_thread(self.rabbit.delete_queues, *self.queue_names())

    async def through_proxies(self) -> None:
        """Routes processes that start from now on through the proxies, to servers and provider alike."""
        for proxy in (self.amqp, self.resp, self.http):
            await proxy.open()
        self.use(
            RABBITMQ_HOST=self.amqp.host,
            RABBITMQ_PORT=self.amqp.port,
            REDIS_HOST=self.resp.host,
            REDIS_PORT=self.resp.port,
            PROVIDER_URL=f"http://{self.http.host}:{self.http.port}/sms",
        )

    def all_started(self) -> bool:
        """Whether the provider and all senders have started."""
        listening = self._provider is not None and self._provider.logged("provider_listening")
        return listening and all(sender.logged("sender_started") for sender in self.senders.values())

    def queue_names(self) -> list[str]:
        queues = [*self.topology.standing, self.topology.failed, *self.topology.retries(LONGEST_RETRY_S)]
        return [queue.name for queue in queues]

    def _declare_queues(self) -> None:
        """Declares the queues early: one declared just before a crash does not survive it."""
        channel = self.channel()
        for queue in (
            *self.topology.standing,
            self.topology.failed,
            *self.topology.retries(LONGEST_RETRY_S),
        ):
            channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        channel.connection.close()

    # -- provider, senders -----------------------------------------------------------------------------------------

    def start_provider(self) -> None:
        """Starts the mock provider, which appends to the record."""
        profile = self.folder / "profile.yaml"
        profile.write_text(json.dumps(self.plan.profile))
        place = ("--port", self._provider_port, "--record", self.record)
        self._provider = self.start(
            "smsim", "provider", *place, "--profile", profile, "--seed", self.plan.seed
        )

    def kill_provider(self) -> None:
        """Kills the mock provider with SIGKILL."""
        if self._provider is not None:
            self._provider.signal(SIGKILL)

    def start_sender(self, name: str) -> None:
        """Starts a sender of this name."""
        self.senders[name] = self.sender("--name", name)

    def signal_sender(self, name: str, number: Signals) -> None:
        """Sends a signal to a sender. If it ends the sender, that is no trouble."""
        if number in (SIGKILL, SIGTERM, SIGINT):
            self._told_to_end.add(self.senders[name].pid)
        self.senders[name].signal(number)

    def some_senders(self, random: Random) -> list[str]:
        """The names of one or more running senders."""
        running = [name for name, sender in self.senders.items() if sender.runs]
        return random.sample(running, random.randint(1, len(running)))

    async def replace_sender(self, name: str) -> None:
        """Stops a sender gracefully and starts it again."""
        self.signal_sender(name, SIGTERM)
        await self.senders[name].ended()
        self.start_sender(name)

    async def stop_senders(self) -> None:
        """Stops all senders gracefully. A nonzero exit code is a trouble."""
        # A signal kills a sender that has not installed its handlers yet.
        await eventually(self.all_started, START_DEADLINE_S, "all senders have started")
        for name, sender in self.senders.items():
            if sender.runs:
                self.signal_sender(name, SIGTERM)
        for name, sender in self.senders.items():
            try:
                code = await sender.ended()
            except TimeoutError as error:
                self.troubles.append(str(error))
                continue
            if code != 0:
                self.troubles.append(f"{name} ended with {code}: {_last_words(sender)}")

    # -- producers -------------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publishes the waves in turn. Each begins once the queue is short enough for the plan."""
        for wave in self.plan.waves:
            await eventually(lambda: self._waiting() <= self.plan.ahead, self.plan.deadline_s)
            self._announced.add(wave.run)
            await self._publish(wave)

    def end_producer(self, run: str, number: Signals) -> None:
        """Ends a producer with a signal. Another resumes its run as soon as the lease allows."""
        producer = self.producing[run]
        if producer.runs:
            self._told_to_end.add(producer.pid)
            producer.signal(number)

    async def _publish(self, wave: Wave) -> None:
        lane = ["--urgent"] if wave.urgent else []
        first = ["--num-messages", wave.messages, "--run", wave.run, *lane]
        arguments = first
        while True:
            producer = self.producing[wave.run] = self.producer(*arguments, SEED=wave.seed)
            code = await producer.ended(self.plan.deadline_s)
            said = producer.stderr
            if code == 0:
                return
            if f"no run {wave.run}" in said:  # ended before the run began
                arguments = first
                continue
            arguments = ["--resume", wave.run]
            if "is being published by" in said:
                await asyncio.sleep(RESUME_EVERY_S)
            elif code not in TOLD_TO_END or producer.pid not in self._told_to_end:
                self.troubles.append(f"a producer ended with {code}: {_last_words(producer)}")

    def _waiting(self) -> int:
        return 0 if self.last is None else self.last.waiting

    # -- poison ----------------------------------------------------------------------------------------------------

    def publish_poison(self, bodies: int, random: Random) -> None:
        """Publishes distinct invalid bodies to the lanes, directly over AMQP."""
        channel = self.channel()
        channel.confirm_delivery()
        for _ in range(bodies):
            body = random.choice(POISONS)(f"{random.getrandbits(64):016x}")
            lane = self.topology.lane(random.choice(list(Lane)))
            self.poison.add(body)
            channel.basic_publish("", lane.name, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
        channel.connection.close()

    def take_all(self, queue: Queue) -> list[bytes]:
        """Empties a queue and returns its bodies."""
        channel: Any = self.channel()
        found = []
        while (taken := channel.basic_get(queue.name, auto_ack=True))[0] is not None:
            found.append(taken[2])
        channel.connection.close()
        return found

    # -- the books -------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Reads the books repeatedly: they must be consistent at every moment."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> Books | None:
        """Reads the books and checks their consistency. Returns None while Redis is unavailable."""
        self._look_at_senders()
        runs = {wave.run: wave.messages for wave in self.plan.waves if wave.run in self._announced}
        try:
            books: Books = await cancellable(lambda: read_books(self._books, runs, list(self.senders)))
        except (RedisError, OSError):
            return None
        self.polls += 1
        self.troubles += contradictions(books)
        if self.last is not None and not self.may_go_back:
            self.troubles += shrunk(self.last, books)
        self.last = books
        return books

    def _look_at_senders(self) -> None:
        for name, sender in self.senders.items():
            if not sender.runs and sender.pid not in self._told_to_end:
                self._told_to_end.add(sender.pid)
                code = sender.process.returncode
                self.troubles.append(f"{name} ended by itself with {code}: {_last_words(sender)}")
                self.start_sender(name)  # as its operator would

    async def settled_now(self) -> int:
        """How many messages are settled now. Waits while Redis is unavailable."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                sent, failed = await self._books.hmget("sms:stats", "sent", "failed")
                return int(sent or 0) + int(failed or 0)
            await asyncio.sleep(LOOK_S)

    async def next_settle(self) -> float | None:
        """Seconds until the next message is settled; None if all are settled."""
        began, before = time.monotonic(), await self.settled_now()
        while before < self.plan.messages:
            if await self.settled_now() > before:
                return time.monotonic() - began
            await asyncio.sleep(LOOK_S)
        return None

    async def at_rest(self) -> bool:
        """Whether the queues are empty and, by their heartbeats, the senders have nothing in flight."""
        depths = await asyncio.to_thread(self.depths)
        shelves = (self.topology.rejected.name, self.topology.failed.name)
        if any(depth for name, depth in depths.items() if name not in shelves):
            return False
        return not any(sender.in_flight for sender in (await self.ledger.snapshot()).senders.values())


def _last_words(process: Launched) -> str:
    """The end of a process's output, as one line."""
    return " | ".join((process.stdout + process.stderr).strip().splitlines()[-4:])[-600:]

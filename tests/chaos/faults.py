"""The faults: what each does to a running pipeline, and how its recovery is detected."""

import asyncio
import contextlib
import hashlib
import os
import time
from abc import ABC, abstractmethod
from importlib.resources import files
from random import Random
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, Signals
from typing import ClassVar

from redis.exceptions import RedisError

from common.keys import Keys
from common.ledger.redis.scripts import script_texts
from common.messages import Lane
from tests.chaos.plan import FLAKY, OUTAGES, STEADY, Wishes
from tests.chaos.proxy import LostAnswers, Proxy
from tests.chaos.servers import ClockedRedis, RabbitCluster, SentinelRedis, SmallDiskRedis
from tests.chaos.stage import LOOK_S, Stage
from tests.servers import RabbitServer, RedisServer, Server
from tests.waiting import eventually


class Fault(ABC):
    """One kind of fault.

    Attributes:
        name: Its name on the command line.
        description: Its line in the table of docs/reliability.md.
        touches: What it acts on. Two faults that touch different things may strike together.
        wishes: What it needs of the plan.
        proxied: Whether the processes reach the servers through the proxies.
        rabbit: The kind of RabbitMQ it needs.
        redis: The kind of Redis it needs.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    touches: ClassVar[frozenset[str]]
    wishes: ClassVar[Wishes] = Wishes()
    proxied: ClassVar[bool] = False
    rabbit: ClassVar[type[RabbitServer]] = RabbitServer
    redis: ClassVar[type[RedisServer]] = RedisServer

    def __init__(self, stage: Stage, random: Random) -> None:
        self.stage = stage
        self.random = random

    def prepare(self) -> None:  # noqa: B027  # most faults need nothing
        """Called before any process starts."""

    async def wait_for_moment(self) -> None:  # noqa: B027  # most faults may strike at any moment
        """Returns when the fault would do harm."""

    @abstractmethod
    async def begin(self) -> None:
        """Starts the fault."""

    async def hold(self, seconds: float) -> None:
        """Waits while the fault lasts."""
        await asyncio.sleep(seconds)

    @abstractmethod
    async def end(self) -> None:
        """Ends the fault: restarts what it ended and lets connections through."""

    async def recover(self) -> float | None:
        """Seconds from its end until the next message is settled; None if all are settled."""
        return await self.stage.next_settle()

    async def epilogue(self) -> None:  # noqa: B027
        """Called after the audit, with the senders stopped."""


class KilledSenders(Fault):
    name = "senders-killed"
    description = "SIGKILL of some or all senders, which are started again"
    touches = frozenset({"senders"})
    wishes = Wishes(strikes=4)

    async def begin(self) -> None:
        self._victims = self.stage.some_senders(self.random)
        for name in self._victims:
            self.stage.signal_sender(name, SIGKILL)

    async def end(self) -> None:
        for name in self._victims:
            self.stage.start_sender(name)


class StoppedSenders(Fault):
    name = "senders-stopped"
    description = (
        "SIGSTOP of some or all senders, then SIGCONT; every other time RabbitMQ gives away their work"
    )
    touches = frozenset({"senders"})
    wishes = Wishes(strikes=4, hold_s=(2, 8))
    proxied = True
    _times = 0

    async def begin(self) -> None:
        self._times += 1
        self._victims = self.stage.some_senders(self.random)
        for name in self._victims:
            self.stage.signal_sender(name, SIGSTOP)
        if self._times % 2 == 0:
            # A stopped sender does not notice, and continues with deliveries that it no longer owns.
            self.stage.amqp.cut()

    async def end(self) -> None:
        for name in self._victims:
            self.stage.signal_sender(name, SIGCONT)


class KilledProducer(Fault):
    name = "producer-killed"
    description = "SIGKILL or Ctrl-C of a producer in mid-run; another goes on with the run by `--resume`"
    touches = frozenset({"producer"})
    wishes = Wishes(strikes=3, hold_s=(0, 0))
    _run = ""

    async def wait_for_moment(self) -> None:
        while True:
            run, confirmed, total = self._progress()
            if run and run != self._run and confirmed < total:
                takes_s = total / (20_000 * min(20, self.stage.plan.batch_size))
                await asyncio.sleep(self.random.uniform(0, takes_s))
                _, confirmed, _ = self._progress(run)
                if confirmed < total:
                    return
            await asyncio.sleep(0.001)

    async def begin(self) -> None:
        self.strike(self.random.choice((SIGKILL, SIGKILL, SIGINT)))

    def strike(self, number: Signals) -> None:
        """Ends the latest producer, if any."""
        if self.stage.producing:
            self._run = next(reversed(self.stage.producing))
            self.stage.end_producer(self._run, number)

    async def end(self) -> None:
        pass  # the stage resumes the run once the old producer's lease has expired

    async def recover(self) -> float | None:
        """Seconds until the run is published completely."""
        began = time.monotonic()
        while True:
            _, confirmed, total = self._progress(self._run)
            if confirmed == total:
                return time.monotonic() - began
            await asyncio.sleep(LOOK_S)

    def _progress(self, run: str = "") -> tuple[str, int, int]:
        """The latest run, or the one named; how many of its messages are confirmed; and its total."""
        run = run or next(reversed(self.stage.producing), "")
        counters = self.stage.hash(f"sms:run:{run}")
        return run if counters else "", counters.get("confirmed", 0), counters.get("total", 0)


class KilledServers(Fault):
    name = "both-killed"
    description = "SIGKILL of RabbitMQ and Redis together, which are started again"
    touches = frozenset({"rabbitmq", "redis"})

    async def begin(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.kill) for server in self._servers))

    async def end(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self._servers))

    @property
    def _servers(self) -> list[Server]:
        servers = {"rabbitmq": self.stage.rabbit, "redis": self.stage.redis_server}
        return [server for name, server in servers.items() if name in self.touches]


class KilledRabbit(KilledServers):
    name = "rabbitmq-killed"
    description = "SIGKILL of RabbitMQ, which is started again"
    touches = frozenset({"rabbitmq"})


class KilledRedis(KilledServers):
    name = "redis-killed"
    description = "SIGKILL of Redis (append-only file, fsync always), which is started again"
    touches = frozenset({"redis"})
    wishes = Wishes(strikes=4)


class CutConnections(Fault):
    name = "connections-cut"
    description = "all connections to RabbitMQ, Redis or both are reset, and refused for up to 2 s"
    touches = frozenset({"network"})
    wishes = Wishes(strikes=6, hold_s=(0, 2))
    proxied = True

    async def begin(self) -> None:
        both = [self.stage.amqp, self.stage.resp]
        self._proxies = self.random.choice((both, both[:1], both[1:]))
        for proxy in self._proxies:
            proxy.refusing = True
            proxy.cut()

    async def end(self) -> None:
        for proxy in self._proxies:
            proxy.refusing = False


class BadConnections(Fault):
    """The connections to RabbitMQ and Redis stay open, but carry little or nothing."""

    touches = frozenset({"network"})
    proxied = True

    async def end(self) -> None:
        for proxy in self.proxies:
            proxy.mend()

    @property
    def proxies(self) -> tuple[Proxy, Proxy]:
        return self.stage.amqp, self.stage.resp


class SlowConnections(BadConnections):
    name = "connections-slow"
    description = "all connections to RabbitMQ and Redis are slowed: 50 to 300 ms either way, 20 to 200 KB/s"
    wishes = Wishes(strikes=2, hold_s=(4, 8))

    async def begin(self) -> None:
        for proxy in self.proxies:
            proxy.delay_s = self.random.uniform(0.05, 0.3)
            proxy.bytes_per_s = self.random.randint(20_000, 200_000)


class SilentConnections(BadConnections):
    name = "connections-silent"
    description = (
        "nothing passes to or from RabbitMQ and Redis, for longer than an answer of Redis is waited for"
    )
    wishes = Wishes(strikes=2, hold_s=(11, 14))

    async def begin(self) -> None:
        for proxy in self.proxies:
            proxy.silence()


class MemoryAlarm(Fault):
    name = "memory-alarm"
    description = (
        "memory alarm of RabbitMQ over a backlog: publishers are blocked, senders must go on draining"
    )
    touches = frozenset({"rabbitmq"})
    wishes = Wishes(strikes=2, hold_s=(12, 15), ahead=0.6, lasts_s=50, max_attempts=1)

    async def begin(self) -> None:
        await self._set_watermark("0.000001")

    async def hold(self, seconds: float) -> None:
        settled, waiting = [await self.stage.settled_now()], [await self._waiting()]
        for _ in range(3):
            await asyncio.sleep(seconds / 3)
            settled.append(await self.stage.settled_now())
            waiting.append(await self._waiting())
        self.stage.notes.setdefault("alarms", []).append({"settled": settled, "bodies_waiting": waiting})
        if not waiting[0]:
            self.stage.troubles.append("the memory alarm met no backlog, and so proves nothing")
        if waiting[-1] and settled[-1] == settled[-2]:
            self.stage.troubles.append(
                f"senders stood still under the memory alarm: at its begin and after each third of {seconds:.0f} s"
                f" {settled} were settled and {waiting} bodies waited"
            )

    async def _waiting(self) -> int:
        """The number of bodies in the lanes. The ledger also counts those whose publishers are blocked."""
        lanes = [self.stage.topology.lane(lane).name for lane in Lane]
        return sum((await asyncio.to_thread(self.stage.rabbit.queue_depths, *lanes)).values())

    async def end(self) -> None:
        await self._set_watermark("0.4")

    async def _set_watermark(self, share: str) -> None:
        await asyncio.to_thread(self.stage.rabbit.ctl, "set_vm_memory_high_watermark", share)


class MemoryAlarmWithRetries(MemoryAlarm):
    name = "memory-alarm-retries"
    description = (
        "the same with three attempts and a third of the sends to be retried, whose copies are blocked too"
    )
    wishes = Wishes(strikes=2, hold_s=(12, 15), ahead=0.6, lasts_s=50, max_attempts=3, profile=FLAKY)


class FullRedis(Fault):
    name = "redis-full"
    description = "Redis is at `maxmemory` with `noeviction`, and refuses all writes"
    touches = frozenset({"redis"})
    wishes = Wishes(strikes=4, hold_s=(1, 5))

    async def begin(self) -> None:
        await asyncio.to_thread(self.stage.redis.config_set, "maxmemory", 1)

    async def end(self) -> None:
        await asyncio.to_thread(self.stage.redis.config_set, "maxmemory", 0)


class FullDisk(Fault):
    name = "redis-disk-full"
    description = "Redis's disk is full: it ends at its next write; started again once there is room"
    touches = frozenset({"redis"})
    wishes = Wishes(strikes=2, hold_s=(3, 5))
    redis = SmallDiskRedis

    async def begin(self) -> None:
        self._server.fill()
        self.stage.notes["disk"] = self._server.full_by

    async def end(self) -> None:
        await eventually(lambda: self._server.pid is None, describe="Redis ends for want of room")
        self._server.free()
        await asyncio.to_thread(self._server.start)

    @property
    def _server(self) -> SmallDiskRedis:
        assert isinstance(self.stage.redis_server, SmallDiskRedis)
        return self.stage.redis_server


class FailedOver(Fault):
    name = "redis-failover"
    description = (
        "SIGKILL of Redis's primary while its replica stands still: the Sentinels promote the replica, and the primary"
        " is started again as its replica (`min-replicas-to-write 1`, `REDIS_WAIT_REPLICAS=1`)"
    )
    touches = frozenset({"redis"})
    wishes = Wishes(strikes=3, settings={"REDIS_WAIT_REPLICAS": 1})
    redis = SentinelRedis

    async def begin(self) -> None:
        self._killed, replica = self._servers.primary, self._servers.replica
        assert replica.pid is not None
        self.stage.may_go_back = True
        os.kill(replica.pid, SIGSTOP)
        await asyncio.sleep(
            self.random.uniform(0.2, 0.5)
        )  # in which the primary takes writes that nobody else has
        await asyncio.to_thread(self._killed.kill)
        os.kill(replica.pid, SIGCONT)

    async def hold(self, seconds: float) -> None:
        await eventually(self._is_promoted, 60, "the replica is promoted")

    async def end(self) -> None:
        await asyncio.to_thread(self._servers.start)

    async def recover(self) -> float | None:
        recovery_s = await super().recover()
        await self.stage.look()
        self.stage.may_go_back = False
        return recovery_s

    def _is_promoted(self) -> bool:
        with contextlib.suppress(RedisError):
            return self._servers.primary is not self._killed
        return False

    @property
    def _servers(self) -> SentinelRedis:
        assert isinstance(self.stage.redis_server, SentinelRedis)
        return self.stage.redis_server


class KilledLeader(Fault):
    name = "cluster-leader-killed"
    description = "three RabbitMQ nodes: SIGKILL of that which leads the bulk queue; it is started again"
    touches = frozenset({"rabbitmq"})
    wishes = Wishes(strikes=3, hold_s=(3, 6))
    rabbit = RabbitCluster

    def prepare(self) -> None:
        self.stage.use(RABBITMQ_HOST=self._cluster.hosts)

    async def begin(self) -> None:
        self._leader = await asyncio.to_thread(self._cluster.leader_of, self.stage.queue)
        await asyncio.to_thread(self._leader.kill)

    async def end(self) -> None:
        await asyncio.to_thread(self._leader.start)

    @property
    def _cluster(self) -> RabbitCluster:
        assert isinstance(self.stage.rabbit, RabbitCluster)
        return self.stage.rabbit


class LostLedgerAnswers(Fault):
    name = "answers-lost"
    description = (
        "the answer to each kind of ledger call is lost, one in ten, after Redis has carried the call out"
    )
    touches = frozenset({"redis", "senders", "producer"})
    # Senders ask for a rate limit, which they never reach.
    wishes = Wishes(strikes=1, between=(0.05, 0.1), max_attempts=3, settings={"PROVIDER_RATE": 100_000})
    proxied = True
    KINDS = frozenset(
        {
            *("begin", "resume", "leave", "announce", "confirm"),
            *("claim", "settle", "release", "heartbeat", "hincrby", "zrem"),
            *("take", "runs", "close_run", "forget"),
        }
    )

    async def begin(self) -> None:
        self._loss = self.stage.resp.loss = LostAnswers(_scripts(), self.KINDS, every=10)

    async def hold(self, seconds: float) -> None:
        """Lasts for most of the run, and provokes every kind of call."""
        await asyncio.to_thread(self.stage.publish_poison, 20, self.random)
        await self._stop_a_producer()
        while not await self._nearly_over():
            if not {"release", "zrem"} <= set(self._loss.lost):
                await self._replace_a_sender()
            await asyncio.sleep(0.2)

    async def end(self) -> None:
        self.stage.resp.loss = None

    async def epilogue(self) -> None:
        """Provokes the calls of upkeep: it truncates a run without a producer, and forgets a finished one."""
        self.stage.resp.loss = self._loss
        producer = self.stage.producer("--num-messages", 5_000, "--run", "cut-off")
        self.stage.amqp.bytes_per_s = 20_000
        await eventually(lambda: self.stage.hash("sms:run:cut-off").get("announced"))
        producer.signal(SIGINT)
        await producer.ended()
        self.stage.amqp.mend()
        await self._runs_well("audit", "--repair", "--run", "cut-off")
        self.stage.start_sender("epilogue")
        await eventually(self._cut_off_is_over, 60)
        await self._runs_well("forget", "cut-off", self.stage.plan.waves[0].run)
        self.stage.resp.loss = None
        self.stage.notes["lost_answers"] = dict(self._loss.lost)
        if missing := self.KINDS - set(self._loss.lost):
            self.stage.troubles.append(f"no answer was lost of: {', '.join(sorted(missing))}")

    def _cut_off_is_over(self) -> bool:
        run = self.stage.hash("sms:run:cut-off")
        return run["total"] == run["published"] == run["sent"] + run["failed"]

    async def _runs_well(self, *command: str) -> None:
        done = self.stage.start("smsim", *command)
        if await done.ended() != 0:
            self.stage.troubles.append(f"smsim {command[0]}: {(done.stderr or done.stdout)[-300:]}")

    async def _stop_a_producer(self) -> None:
        """Stops one with Ctrl-C, so that it gives up its run. It is slowed down, so that it is still running."""
        self.stage.amqp.bytes_per_s = 20_000
        producer = KilledProducer(self.stage, self.random)
        moment = asyncio.create_task(producer.wait_for_moment())
        while not moment.done() and not await self._nearly_over():
            await asyncio.sleep(LOOK_S)
        moment.cancel()
        producer.strike(SIGINT)
        self.stage.amqp.mend()

    async def _nearly_over(self) -> bool:
        return await self.stage.settled_now() > 0.85 * self.stage.plan.messages

    async def _replace_a_sender(self) -> None:
        """Replaces a sender that has claims under way, so that it has something to release."""
        self.stage.resp.delay_s = 0.05
        await asyncio.sleep(0.2)
        await self.stage.replace_sender(self.random.choice(list(self.stage.senders)))
        self.stage.resp.mend()


class Poison(Fault):
    name = "poison"
    description = "bodies that are no batch, of eight kinds, among the good ones in both lanes"
    touches = frozenset({"queue"})
    wishes = Wishes(strikes=5, hold_s=(0, 0.5))

    async def begin(self) -> None:
        await asyncio.to_thread(self.stage.publish_poison, self.random.randint(10, 60), self.random)

    async def end(self) -> None:
        pass


class JumpingClocks(Fault):
    name = "clock-jumps"
    description = (
        "the clocks of producers, senders and Redis jump, by up to an hour ahead or back, and back again"
    )
    touches = frozenset({"clock"})
    wishes = Wishes(strikes=5, hold_s=(1, 4))
    redis = ClockedRedis

    def prepare(self) -> None:
        self.stage.use(**self._clocked.clock.env)

    async def begin(self) -> None:
        self._clocked.clock.set(self.random.choice((-1, 1)) * self.random.choice((0.5, 15, 600, 3600)))

    async def end(self) -> None:
        self._clocked.clock.set(0)

    @property
    def _clocked(self) -> ClockedRedis:
        assert isinstance(self.stage.redis_server, ClockedRedis)
        return self.stage.redis_server


class LostProvider(Fault):
    name = "provider-outage"
    description = "the provider is killed and started again; and it refuses all for 2 s out of every 8"
    touches = frozenset({"provider"})
    wishes = Wishes(strikes=3, hold_s=(1, 4), max_attempts=6, profile=OUTAGES)

    async def begin(self) -> None:
        self.stage.kill_provider()

    async def end(self) -> None:
        self.stage.start_provider()


class CutProvider(Fault):
    name = "provider-cut"
    description = "connections to the provider are reset again and again, so that answers to sends are lost"
    touches = frozenset({"provider"})
    wishes = Wishes(strikes=3, hold_s=(2, 5), max_attempts=6)
    proxied = True

    async def begin(self) -> None:
        self._cutting = asyncio.create_task(self._cut())

    async def end(self) -> None:
        self._cutting.cancel()

    async def _cut(self) -> None:
        while True:
            self.stage.http.cut()
            await asyncio.sleep(self.random.uniform(0.05, 0.5))


class Everything(Fault):
    name = "combined"
    description = (
        "two of the faults above at a time, drawn at random from those that two plain servers can have"
    )
    touches = frozenset({"everything"})
    wishes = Wishes(strikes=6, hold_s=(1, 5), max_attempts=4, profile=STEADY)
    proxied = True
    PARTS: ClassVar[tuple[type[Fault], ...]] = (
        *(KilledSenders, StoppedSenders, KilledProducer, KilledRabbit, KilledRedis, KilledServers),
        *(CutConnections, SlowConnections, FullRedis, Poison, LostProvider, CutProvider),
    )

    async def begin(self) -> None:
        first, second = self.random.sample(self.PARTS, 2)
        while first.touches & second.touches:
            first, second = self.random.sample(self.PARTS, 2)
        self._begun = [kind(self.stage, self.random) for kind in (first, second)]
        for fault in self._begun:
            await fault.begin()
            await asyncio.sleep(self.random.uniform(0, 1))
        self.stage.notes.setdefault("struck", []).append(f"{first.name} + {second.name}")

    async def end(self) -> None:
        self.random.shuffle(self._begun)
        for fault in self._begun:
            await fault.end()


FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        *(KilledSenders, StoppedSenders, KilledProducer, KilledRabbit, KilledRedis, KilledServers),
        *(CutConnections, SlowConnections, SilentConnections, MemoryAlarm, MemoryAlarmWithRetries),
        *(
            FullRedis,
            FullDisk,
            FailedOver,
            KilledLeader,
            LostLedgerAnswers,
            Poison,
            JumpingClocks,
            LostProvider,
            CutProvider,
        ),
        Everything,
    )
}


def _scripts() -> dict[str, str]:
    """The name of each Lua script of the ledger and the rate limit, by its SHA-1."""
    texts = {**script_texts(Keys()), "take": (files("common.rate") / "take.lua").read_text()}
    return {hashlib.sha1(text.encode()).hexdigest(): name for name, text in texts.items()}

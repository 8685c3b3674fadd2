"""How ours and every peer are measured, in the same way: publish, consume, and both at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from studies.bench.figures import BOTH, CONSUME, PUBLISH, Measured, Work
from studies.meter import Meter
from studies.process import Process, StudyFailed, until
from studies.servers import Servers


class Bench(ABC):
    """The processes of one measurement, of ours or of a peer, on queues of its own.

    Moments are in seconds, by one clock of its own.

    Attributes:
        who: Whose it is.
        batch_size: Messages a batch.
        messages: How many messages it has.
        bodies: How many AMQP messages that makes.
        servers: The servers.
    """

    who: str
    batch_size: int
    messages: int
    bodies: int
    servers: Servers

    @abstractmethod
    def producer(self) -> Process:
        """Publishes all messages, and reports `elapsed_s`."""

    @abstractmethod
    def worker(self) -> Process:
        """Consumes until it is stopped."""

    @abstractmethod
    async def ready(self, worker: Process) -> None:
        """Waits until the worker consumes."""

    @abstractmethod
    async def begun_s(self, producer: Process) -> float | None:
        """The moment of the first publish; None before it."""

    @abstractmethod
    async def idle_s(self, worker: Process) -> float | None:
        """The present moment, as long as the worker has begun with no message; then None."""

    @abstractmethod
    async def ended_s(self, worker: Process) -> float | None:
        """The moment when the last message was sent; None before it."""

    @abstractmethod
    def waiting(self) -> int:
        """How many AMQP messages are in its queues."""

    @abstractmethod
    async def stop(self, worker: Process) -> None:
        """Ends the worker."""

    @abstractmethod
    async def audit(self) -> None:
        """Raises StudyFailed unless each message was sent and counted once, and the queues are empty."""


Opened = Callable[[], AbstractAsyncContextManager[Bench]]


async def publish_then_consume(opened: Opened) -> list[Measured]:
    """Publishes a backlog while there is no worker, then lets the worker drain it."""
    async with opened() as bench:
        published = await _publish(bench)
        if (waiting := bench.waiting()) != bench.bodies:
            raise StudyFailed(f"{waiting} bodies in the queue after the publish of {bench.bodies}")
        await bench.servers.quiet()
        consumed = await _consume(bench)
        await bench.audit()
    return [published, consumed]


async def both_at_once(opened: Opened, name: str = BOTH) -> list[Measured]:
    """Publishes while the worker consumes: from the first publish to the last send."""
    async with opened() as bench:
        measured = await measure_both(bench, name)
        await bench.audit()
    return [measured]


async def measure_both(bench: Bench, name: str) -> Measured:
    """Both at once, without the audit."""
    with bench.worker() as worker:
        await bench.ready(worker)
        await bench.servers.quiet()
        with bench.producer() as producer:
            meter = Meter({"producer": producer.pid, "sender": worker.pid, **bench.servers.pids})
            begun_s = await _begun_s(bench, producer, meter)
            elapsed_s = await _ended_s(bench, meter, worker, producer) - begun_s
            producer.check()
        await bench.stop(worker)
    return _measured(bench, name, elapsed_s, meter)


async def _publish(bench: Bench) -> Measured:
    with bench.producer() as producer:
        meter = Meter({"producer": producer.pid, **bench.servers.pids})
        await _begun_s(bench, producer, meter)
        await producer.ended(look=meter.sample)
        elapsed_s = float(producer.result()["elapsed_s"])
    return _measured(bench, PUBLISH, elapsed_s, meter)


async def _consume(bench: Bench) -> Measured:
    idle_s = 0.0
    with bench.worker() as worker:
        meter = Meter({"sender": worker.pid, **bench.servers.pids})

        async def busy() -> bool:
            nonlocal idle_s
            meter.start()
            now_s = await bench.idle_s(worker)
            idle_s = now_s or idle_s
            return now_s is None

        await until(busy, worker, what=f"{worker.name} has begun", every_s=0.005)
        # Counts from the last poll that saw it idle: at most one pause too long, never too short.
        elapsed_s = await _ended_s(bench, meter, worker) - idle_s
        await bench.stop(worker)
    return _measured(bench, CONSUME, elapsed_s, meter)


async def _begun_s(bench: Bench, producer: Process, meter: Meter) -> float:
    """The moment of the first publish. CPU time counts from there, without the start of the process."""

    async def begun() -> float | None:
        meter.start()
        return await bench.begun_s(producer)

    return await until(begun, producer, what=f"{producer.name} has begun", every_s=0.005)


async def _ended_s(bench: Bench, meter: Meter, worker: Process, *others: Process) -> float:
    async def ended() -> float | None:
        meter.sample()
        worker.check_alive()
        return await bench.ended_s(worker)

    return await until(ended, *others, what=f"{worker.name} has sent all messages", every_s=0.01)


def _measured(bench: Bench, name: str, elapsed_s: float, meter: Meter) -> Measured:
    return Measured.of(bench.who, Work(name, bench.batch_size, bench.messages), elapsed_s, meter)

"""The memory of a sender against its messages in flight, and of a producer against the messages it publishes."""

from dataclasses import dataclass

import msgspec

from common.ledger.values import Snapshot
from simulation.pipeline import fitting_batch_size
from studies import runs
from studies.meter import MB, Meter
from studies.servers import Servers


class SenderFigure(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a sender.

    Attributes:
        slots, batch_size: Its slots, and messages a batch.
        most_in_flight: The most messages that the ledger counted as sending.
        idle_mb, peak_mb: Its memory with nothing to do, and its peak.
        bytes_per_message: The memory of a message in flight.
    """

    slots: int
    batch_size: int
    most_in_flight: int
    idle_mb: float
    peak_mb: float
    bytes_per_message: int


class ProducerFigure(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a producer.

    Attributes:
        messages, batch_size: How many messages it published, and messages a batch.
        peak_mb: The most memory.
    """

    messages: int
    batch_size: int
    peak_mb: float


async def measure_sender(servers: Servers, slots: int) -> SenderFigure:
    """A sender at 1 s a send, whose slots a backlog keeps full for some seconds."""
    batch_size, messages = fitting_batch_size(slots), 4 * slots
    seen = await _measure(servers, messages, batch_size, slots=slots, mean_s=1.0)
    peak_bytes = seen.meter.peak_bytes()["sender"]
    return SenderFigure(
        slots=slots,
        batch_size=batch_size,
        most_in_flight=seen.most_in_flight,
        idle_mb=round(seen.idle_bytes / MB, 1),
        peak_mb=round(peak_bytes / MB, 1),
        bytes_per_message=round((peak_bytes - seen.idle_bytes) / seen.most_in_flight),
    )


async def measure_producer(servers: Servers, messages: int, batch_size: int = 512) -> ProducerFigure:
    """A producer beside a sender that settles its messages without a send time."""
    seen = await _measure(servers, messages, batch_size, slots=20_000, mean_s=0.0)
    peak_mb = round(seen.meter.peak_mb()["producer"], 1)
    return ProducerFigure(messages=messages, batch_size=batch_size, peak_mb=peak_mb)


@dataclass
class _Seen:
    """A sender and a producer while they run.

    Attributes:
        idle_bytes: The sender's memory with nothing to do.
        meter: Their memory during the run.
        most_in_flight: The most messages that the ledger counted as sending.
    """

    idle_bytes: int
    meter: Meter
    most_in_flight: int = 1

    def look(self, now: Snapshot) -> None:
        self.meter.sample()
        self.most_in_flight = max(self.most_in_flight, now.sending)


async def _measure(servers: Servers, messages: int, batch_size: int, *, slots: int, mean_s: float) -> _Seen:
    """A producer and a sender, until everything is settled. Raises StudyFailed unless it adds up."""
    servers.redis.flush()
    pipeline = servers.pipeline("memory", sender_concurrency=slots, mean_processing_time=mean_s)
    with pipeline.sender() as sender:
        await pipeline.ready(sender)
        idle_bytes = Meter({"sender": sender.pid}).sample()["sender"].memory_bytes
        with pipeline.producer("--num-messages", messages, "--batch-size", batch_size) as producer:
            seen = _Seen(idle_bytes, Meter({"sender": sender.pid, "producer": producer.pid}))
            await runs.begun(servers.ledger, pipeline.queue, sender, producer)
            await runs.settled(servers.ledger, pipeline.queue, messages, sender, producer, look=seen.look)
            producer.check()
        sender.end()
    await pipeline.audit(messages)
    pipeline.delete_queues()
    return seen

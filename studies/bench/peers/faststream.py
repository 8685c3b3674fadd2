"""FastStream over RabbitMQ: publishes gathered in windows; two worker processes, one a core.

https://faststream.ag2.ai/latest/rabbit/prefetch/ (prefetch; the handler runs once for each message that is held)
https://faststream.ag2.ai/latest/rabbit/ack/ (AckPolicy.ACK: after all processing)
https://faststream.ag2.ai/latest/getting-started/cli/ (--workers N starts N processes, on uvloop)
"""

import asyncio

import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from studies.bench.peers import job
from studies.bench.peers.port import Message

PREFETCH = 200

# Without a logger: the default one writes two lines a message.
broker = RabbitBroker(job.RABBITMQ_URL, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
queue = RabbitQueue(job.QUEUE, queue_type=QueueType.QUORUM, durable=True)
counters = job.AsyncCounters()
app = FastStream(broker, logger=None)


async def _on_message(message: Message) -> None:
    await counters.count(job.send(message))


broker.subscriber(queue, ack_policy=AckPolicy.ACK)(_on_message)


async def _publish(count: int) -> None:
    async with broker:
        await broker.declare_queue(queue)
        with job.reported(count):
            for window in job.windows(count):
                await asyncio.gather(
                    *(broker.publish(message, queue=queue, persist=True) for message in window)
                )


def publish(count: int) -> None:
    """Publishes messages, a window of confirms at a time."""
    uvloop.run(_publish(count))


async def _declare() -> None:
    async with broker:
        await broker.declare_queue(queue)


def work(options: list[str]) -> None:
    """Consumes until SIGTERM, in as many processes as its first option gives, as `faststream run --workers`."""
    # Where two processes declare a new quorum queue at the same moment, RabbitMQ 3.10 answers one of them
    # INTERNAL_ERROR in one of ten tries (seen).
    job.in_one(lambda: uvloop.run(_declare()))
    job.in_processes(int(options[0]), lambda: uvloop.run(app.run()))


if __name__ == "__main__":
    job.run(publish, work)

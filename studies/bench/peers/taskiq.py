"""taskiq over taskiq-aio-pika: tasks kicked in gathered windows; two worker processes, acks after execution.

https://taskiq-python.github.io/guide/cli.html (--workers, --max-async-tasks, --max-prefetch, --ack-type, --no-parse)
https://github.com/taskiq-python/taskiq-aio-pika (qos; quorum queues by default)
"""

import asyncio

import uvloop
from taskiq_aio_pika import AioPikaBroker, Queue

from studies.bench.peers import job
from studies.bench.peers.port import Message

PREFETCH = 200

broker = AioPikaBroker(
    job.RABBITMQ_URL,
    qos=PREFETCH,
    task_queues=[Queue(name=job.QUEUE)],
    dead_letter_queue=Queue(name=f"{job.QUEUE}.dead"),
)
counters = job.AsyncCounters()


async def _send(message: Message) -> None:
    await counters.count(job.send(message))


send = broker.task(task_name="send")(_send)


async def _publish(count: int) -> None:
    await broker.startup()
    with job.reported(count):
        for window in job.windows(count):
            await asyncio.gather(*(send.kiq(message) for message in window))
    await broker.shutdown()


def publish(count: int) -> None:
    """Publishes messages, a window of confirms at a time."""
    uvloop.run(_publish(count))


def work(options: list[str]) -> None:
    """Consumes until SIGTERM, under `taskiq worker`."""
    job.become("taskiq", "worker", "studies.bench.peers.taskiq:broker", *options)


if __name__ == "__main__":
    job.run(publish, work)

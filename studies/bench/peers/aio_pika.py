"""aio-pika on uvloop: publishes gathered in windows, each message worked on by a task of its own.

https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html (batches of confirms, by gather)
https://docs.aio-pika.com/quick-start.html (connect_robust, set_qos, queue.consume)
"""

import asyncio
import json
import signal

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue, AbstractRobustConnection

from studies.bench.peers import job

# "Values in the 100 through 300 range usually offer optimal throughput":
# https://www.rabbitmq.com/docs/confirms#channel-qos-prefetch-throughput
PREFETCH = 200


async def _publish(count: int) -> None:
    connection, channel, _ = await _opened()
    exchange = channel.default_exchange
    with job.reported(count):
        for window in job.windows(count):
            await asyncio.gather(
                *(
                    exchange.publish(
                        aio_pika.Message(
                            json.dumps(message).encode(),
                            content_type="application/json",
                            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        ),
                        routing_key=job.QUEUE,
                    )
                    for message in window
                )
            )
    await connection.close()


async def _work() -> None:
    connection, _, queue = await _opened()
    counters = job.AsyncCounters()

    async def on_message(message: AbstractIncomingMessage) -> None:
        async with message.process():  # acks when the work is done
            await counters.count(job.send(json.loads(message.body)))

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await queue.consume(on_message)
    await stop.wait()
    await connection.close()


async def _opened() -> tuple[AbstractRobustConnection, AbstractChannel, AbstractQueue]:
    connection = await aio_pika.connect_robust(job.RABBITMQ_URL)
    channel = await connection.channel()  # with publisher confirms, by default
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.declare_queue(job.QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    return connection, channel, queue


def publish(count: int) -> None:
    """Publishes messages, a window of confirms at a time."""
    uvloop.run(_publish(count))


def work(options: list[str]) -> None:
    """Consumes until SIGTERM, in the number of processes that its first option gives."""
    job.in_processes(int(options[0]), lambda: uvloop.run(_work()))


if __name__ == "__main__":
    job.run(publish, work)

"""pika's BlockingConnection, one message at a time: the sender and producer of the textbooks.

A confirm is awaited for each publish, as in pika's example of delivery confirmations:
https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html
"""

import json
import signal

import pika
from pika.adapters.blocking_connection import BlockingChannel

from studies.bench.peers import job

# "Values in the 100 through 300 range usually offer optimal throughput":
# https://www.rabbitmq.com/docs/confirms#channel-qos-prefetch-throughput
PREFETCH = 200
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")


def publish(count: int) -> None:
    """Publishes messages, each confirmed before the next."""
    channel = _channel()
    channel.confirm_delivery()
    with job.reported(count):
        for message in job.messages(count):
            body = json.dumps(message).encode()
            channel.basic_publish("", job.QUEUE, body, PERSISTENT, mandatory=True)


def work(_: list[str]) -> None:
    """Consumes until SIGTERM."""
    channel, counters = _channel(), job.Counters()

    def on_message(channel: BlockingChannel, method: object, _properties: object, body: bytes) -> None:
        counters.count(job.send(json.loads(body)))
        channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]  # pika ships no types

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(job.QUEUE, on_message)
    signal.signal(
        signal.SIGTERM, lambda *_: channel.connection.add_callback_threadsafe(channel.stop_consuming)
    )
    channel.start_consuming()
    channel.connection.close()


def _channel() -> BlockingChannel:
    channel = pika.BlockingConnection(pika.URLParameters(job.RABBITMQ_URL)).channel()
    channel.queue_declare(job.QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    return channel


if __name__ == "__main__":
    job.run(publish, work)

"""Dramatiq: `send` one by one, each confirmed; worker processes and threads as its command starts them by default.

https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker (confirm_delivery)
https://dramatiq.io/advanced.html#message-persistence (acks only after the work)
https://dramatiq.io/changelog.html (dramatiq_queue_prefetch)
"""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from studies.bench.peers import job
from studies.bench.peers.port import Message


class QuorumBroker(RabbitmqBroker):  # type: ignore[misc]  # of an optional package, which mypy skips
    """On quorum queues, as all the others: Dramatiq has no option for them."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=job.RABBITMQ_URL, confirm_delivery=True)
dramatiq.set_broker(broker)
counters = job.Counters()


def _send(message: Message) -> None:
    counters.count(job.send(message))


send = dramatiq.actor(_send, actor_name="send", queue_name=job.QUEUE)


def publish(count: int) -> None:
    """Publishes messages, each confirmed before the next: Dramatiq has no other way."""
    broker.declare_queue(job.QUEUE, ensure=True)
    with job.reported(count):
        for message in job.messages(count):
            send.send(message)


def work(options: list[str]) -> None:
    """Consumes until SIGTERM, under `dramatiq`."""
    job.become("dramatiq", "studies.bench.peers.dramatiq:broker", *options)


if __name__ == "__main__":
    job.run(publish, work)

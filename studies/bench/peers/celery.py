"""Celery: `delay` one by one, each confirmed; late acks, no results; the pool is chosen by the worker's options.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html (prefetch of 64 or 128 for short tasks)
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html (quorum queues)
https://docs.celeryq.dev/en/stable/userguide/tasks.html (ignore results you don't want)
https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html (confirm_publish)
"""

from celery import Celery

from studies.bench.peers import job
from studies.bench.peers.port import Message

app = Celery("peers", broker=job.RABBITMQ_URL)
app.conf.update(
    task_default_queue=job.QUEUE,
    task_default_queue_type="quorum",
    task_acks_late=True,
    task_ignore_result=True,
    broker_native_delayed_delivery_queue_type="classic",  # not used, but declared at every start
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
)
counters = job.Counters()


def _send(message: Message) -> None:
    counters.count(job.send(message))


send = app.task(name="send")(_send)


def publish(count: int) -> None:
    """Publishes messages, each confirmed before the next: Celery has no other way."""
    app.amqp.queues[job.QUEUE].bind(app.connection_for_write().default_channel).declare()
    with job.reported(count):
        for message in job.messages(count):
            send.delay(message)


def work(options: list[str]) -> None:
    """Consumes until SIGTERM, under `celery worker`."""
    job.become("celery", "--app", "studies.bench.peers.celery", "worker", *options)


if __name__ == "__main__":
    job.run(publish, work)

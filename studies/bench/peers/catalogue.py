"""The peers, as data: how each is configured, and the documentation that advises it."""

from studies.bench.peers.port import Peer

C_CLIENT, PLAIN_PIKA = "C client", "plain pika"
# As https://www.cloudamqp.com/docs/celery.html advises, since a single worker has no other to talk to. With gossip or
# heartbeat, moreover, the loop of 5.7 under gevent waits 0.1 s for events after each message (seen: 10 messages/s).
CELERY = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
# Its worker declares these as soon as it sees a quorum queue, for delayed tasks.
CELERY_DELAYS = tuple(f"celery_delayed_{power}" for power in range(28))

PEERS = (
    Peer(
        name=C_CLIENT,
        module="c_client",
        messages=100_000,
        publishes="confirmed, 2,000 in flight",
        works="prefetch 2,000, acks 200 at a time; no Redis, no counters: the ceiling",
        docs=("https://github.com/alanxz/rabbitmq-c",),
        worker=("{count}",),
        counts=False,
    ),
    Peer(
        name=PLAIN_PIKA,
        module="plain_pika",
        messages=3_000,
        publishes="confirmed one by one",
        works="prefetch 200, one message at a time",
        docs=(
            "https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html",
            "https://www.rabbitmq.com/docs/confirms#channel-qos-prefetch-throughput",
        ),
        packages=("pika",),
    ),
    Peer(
        name="aio-pika",
        module="aio_pika",
        messages=10_000,
        publishes="confirmed, 500 in flight",
        works="prefetch 200, a task a message, uvloop",
        docs=("https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html",),
        packages=("aio-pika", "uvloop"),
        worker=("1",),
    ),
    Peer(
        name="FastStream",
        module="faststream",
        messages=8_000,
        publishes="confirmed, 500 in flight",
        works="2 processes, prefetch 200 each, uvloop",
        docs=("https://faststream.ag2.ai/latest/rabbit/prefetch/",),
        packages=("faststream", "aio-pika"),
        worker=("2",),
        consumers=2,
    ),
    Peer(
        name="taskiq",
        module="taskiq",
        messages=7_000,
        publishes="confirmed, 500 in flight",
        works="2 processes, prefetch 200 each, acks when executed, uvloop",
        docs=("https://taskiq-python.github.io/guide/cli.html",),
        packages=("taskiq", "taskiq-aio-pika"),
        worker=(
            *("--workers", "2", "--max-async-tasks", "200", "--max-prefetch", "200"),
            *("--ack-type", "when_executed", "--no-parse", "--log-level", "WARNING"),
        ),
        consumers=2,
        queues=("{}", "{}.dead"),
    ),
    Peer(
        name="Celery prefork",
        module="celery",
        messages=2_000,
        publishes="confirmed one by one",
        works="4 processes, prefetch 128 each, acks late, no results",
        docs=(
            "https://docs.celeryq.dev/en/stable/userguide/optimizing.html",
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#concurrency",
            "https://www.cloudamqp.com/docs/celery.html",
        ),
        packages=("celery", "kombu", "amqp"),
        worker=(*CELERY, "--pool", "prefork", "--concurrency", "4", "--prefetch-multiplier", "128"),
        queues=("{}", *CELERY_DELAYS),
    ),
    Peer(
        name="Celery gevent",
        module="celery",
        messages=2_000,
        publishes="confirmed one by one",
        works="100 greenlets, prefetch 400, acks late, no results",
        docs=("https://docs.celeryq.dev/en/stable/userguide/concurrency/gevent.html",),
        packages=("gevent",),
        worker=(*CELERY, "--pool", "gevent", "--concurrency", "100", "--prefetch-multiplier", "4"),
        queues=("{}", *CELERY_DELAYS),
    ),
    Peer(
        name="Dramatiq",
        module="dramatiq",
        messages=3_000,
        publishes="confirmed one by one",
        works="2 processes of 8 threads, prefetch 200 each",
        docs=("https://dramatiq.io/reference.html", "https://dramatiq.io/changelog.html"),
        packages=("dramatiq", "pika"),
        worker=("--processes", "2", "--threads", "8"),
        consumers=2,
        queues=("{}", "{}.DQ", "{}.XQ"),
        environment={"dramatiq_queue_prefetch": "200"},
    ),
)

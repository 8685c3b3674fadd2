"""Shared by the processes of all Python peers: messages, counters in Redis, and the report that is measured."""

import json
import multiprocessing
import os
import signal
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import redis
import redis.asyncio

from common.cli import Parser, whole
from studies.bench.peers.port import Message, counters_key

QUEUE = os.environ.get("QUEUE_NAME", "peers")
RABBITMQ_HOST = os.environ.get("RABBITMQ_HOST", "localhost")
RABBITMQ_PORT = int(os.environ.get("RABBITMQ_PORT", "5672"))
RABBITMQ_URL = f"amqp://guest:guest@{RABBITMQ_HOST}:{RABBITMQ_PORT}/%2F"
REDIS_HOST = os.environ.get("REDIS_HOST", "localhost")
REDIS_PORT = int(os.environ.get("REDIS_PORT", "6379"))

# How many publishes the asyncio peers have in flight, gathered as in aio-pika's tutorial on publisher confirms:
# https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html
WINDOW = 500
TEXT_CHARACTERS = 100
POOL = (string.ascii_letters + string.digits + " .,!?") * 4


def messages(count: int) -> Iterator[Message]:
    """Messages with ids of their own and texts of 100 characters. They are cheap to make."""
    for seq in range(count):
        start = seq % TEXT_CHARACTERS
        text = POOL[start : start + TEXT_CHARACTERS]
        yield {"id": f"{QUEUE}.{seq}", "number": f"+{999_000_000_000 + seq}", "text": text}


def windows(count: int) -> Iterator[list[Message]]:
    """The messages, in lists of as many as may be in flight."""
    source = messages(count)
    for first in range(0, count, WINDOW):
        yield [next(source) for _ in range(min(WINDOW, count - first))]


def send(message: Message) -> int:
    """The work on a message: checks all its fields. Returns how long that took, in µs."""
    began_ns = time.perf_counter_ns()
    if not (message["id"] and message["number"].startswith("+") and len(message["text"]) == TEXT_CHARACTERS):
        raise ValueError("not a message of this benchmark")
    return (time.perf_counter_ns() - began_ns) // 1000


class Counters:
    """Sent and time in a Redis hash, one round trip a message, as a task would keep them."""

    def __init__(self) -> None:
        self._redis = redis.Redis(host=REDIS_HOST, port=REDIS_PORT)

    def count(self, time_us: int) -> None:
        """One more message is sent."""
        both = self._redis.pipeline(transaction=False)
        both.hincrby(counters_key(QUEUE), "sent", 1)
        both.hincrby(counters_key(QUEUE), "time_us", time_us)
        both.execute()


class AsyncCounters:
    """The same for asyncio; connections come from redis-py's pool."""

    def __init__(self) -> None:
        # Enough for all tasks of a worker; redis-py's own limit is 100.
        self._redis = redis.asyncio.Redis(host=REDIS_HOST, port=REDIS_PORT, max_connections=1_000)

    async def count(self, time_us: int) -> None:
        """One more message is sent."""
        both = self._redis.pipeline(transaction=False)
        both.hincrby(counters_key(QUEUE), "sent", 1)
        both.hincrby(counters_key(QUEUE), "time_us", time_us)
        await both.execute()


@contextmanager
def reported(count: int) -> Iterator[None]:
    """Around the publishes, from the first to the last confirm: reports their begin and duration on stdout.

    Connect and declare before. The moment is by the monotonic clock, which all processes share.
    """
    begun_s = time.monotonic()
    print(json.dumps({"begun_s": begun_s}), flush=True)
    yield
    print(json.dumps({"published": count, "elapsed_s": time.monotonic() - begun_s}), flush=True)


def run(publish: Callable[[int], None], work: Callable[[list[str]], None]) -> None:
    """Runs the side that the arguments name; `work` gets the arguments after it."""
    parser = Parser("studies.bench.peers", "One side of one peer; see studies/bench/peers/__init__.py.")
    parser.add_argument("side", choices=("publish", "work"))
    parser.add_argument("--count", type=whole(1), default=1_000, help="how many to publish (default: 1,000)")
    args, rest = parser.parse_known_args()
    if args.side == "publish":
        publish(args.count)
    else:
        work(rest)


def in_one(work: Callable[[], None]) -> None:
    """Runs some work in a process of its own, so that it leaves nothing behind in this one."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()


def in_processes(count: int, work: Callable[[], None]) -> None:
    """The same work in several processes, ended together by SIGTERM: for frameworks that leave that to their users."""
    if count == 1:
        work()
        return
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=work) for _ in range(count)]
    for child in children:
        child.start()

    def end(*_: object) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, end)
    for child in children:
        child.join()


def become(module: str, *arguments: str) -> NoReturn:
    """Becomes the framework's own command, as its users would start it."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])

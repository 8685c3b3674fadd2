"""A pipeline for each test, and one whose servers the test may kill."""

import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.pipeline import Pipeline
from tests.servers import RabbitServer, RedisServer

# pika warns of each missing queue.
logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest_asyncio.fixture
async def pipeline(
    tmp_path: Path, rabbit_server: RabbitServer, redis_server: RedisServer
) -> AsyncIterator[Pipeline]:
    """A pipeline on the servers of the session."""
    async for pipeline in _opened(tmp_path, rabbit_server, redis_server):
        yield pipeline


@pytest.fixture(scope="module")
def mortal_servers(
    rabbit_server: RabbitServer, redis_server: RedisServer
) -> Iterator[tuple[RabbitServer, RedisServer]]:
    """Servers for tests that kill them. The session's fixtures skip the test if there are none."""
    with RabbitServer() as rabbit, RedisServer() as redis:
        yield rabbit, redis


@pytest_asyncio.fixture
async def mortal_pipeline(
    tmp_path: Path, mortal_servers: tuple[RabbitServer, RedisServer]
) -> AsyncIterator[Pipeline]:
    """A pipeline on servers that the test may kill. They are restarted before the next test."""
    rabbit, redis = mortal_servers
    rabbit.start()
    redis.start()
    async for pipeline in _opened(tmp_path, rabbit, redis):
        yield pipeline
        rabbit.start()
        redis.start()


async def _opened(folder: Path, rabbit: RabbitServer, redis: RedisServer) -> AsyncIterator[Pipeline]:
    pipeline = Pipeline(folder, rabbit, redis, f"e2e-{secrets.token_hex(4)}")
    await pipeline.open()
    try:
        yield pipeline
    finally:
        await pipeline.shut()

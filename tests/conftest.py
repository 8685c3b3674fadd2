"""Fixtures of all tests: real servers, started on first use, and the watch on blocking calls."""

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from blockbuster import BlockBuster

from common.settings import Settings
from tests.blocking import blocking_calls
from tests.examples import register_profiles
from tests.runners import ServersUnavailableError, docker_answers, free_port
from tests.servers import RabbitServer, RedisServer, Server
from tests.spreading import spread, workers

# The asserts of helper modules get pytest's explanations. They must be named before their import.
for helpers in ("chaos", "docker", "e2e", "gateway", "metrics", "model"):
    pytest.register_assert_rewrite(f"tests.{helpers}")

S = TypeVar("S", bound=Server)

ON_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

register_profiles(ON_CI)


def pytest_configure() -> None:
    """Makes SIGTERM end the test run like Ctrl-C, with the teardown of all fixtures."""
    # asyncio handles SIGINT. An exception raised from a handler in a task group would be wrapped or lost.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to its background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` starts."""
    return workers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests for the workers. Skips those marked `docker` where no engine answers, also on CI."""
    spread(items)
    marked = [item for item in items if item.get_closest_marker("docker")]
    if marked and not docker_answers():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no Docker engine answers"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole session. A test that needs it empty calls `flush`."""
    yield from _running(RedisServer)


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """A RabbitMQ for the whole session. Tests use queue names of their own."""
    yield from _running(RabbitServer)


def _running(kind: Callable[[], S]) -> Iterator[S]:
    try:
        server = kind()
    except ServersUnavailableError as error:
        if ON_CI:
            raise
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def unused_tcp_port() -> int:
    """A port without a listener. pytest-asyncio's fixture gives one that an outgoing connection may take."""
    return free_port()


@pytest.fixture(scope="session")
def font_cache() -> None:
    """Builds matplotlib's font cache, which takes long the first time and prints to stderr."""
    importlib.import_module("matplotlib.font_manager")


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without settings, and a working directory without `.env`."""
    ours = set(Settings.model_fields)
    for name in list(os.environ):
        if name.lower().removesuffix("_file") in ours:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _blocking_calls() -> BlockBuster:
    return blocking_calls()


@pytest.fixture(autouse=True)
def _loop_is_never_blocked(_blocking_calls: BlockBuster) -> Iterator[None]:
    """A blocking call of product code under a running event loop fails the test."""
    _blocking_calls.activate()
    yield
    _blocking_calls.deactivate()

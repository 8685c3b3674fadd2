"""What all tests share: the real servers, started when first asked for, and the hypothesis profiles."""

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

# So that the asserts of helpers speak. Named here, before any is imported: tests use those of other folders, too.
for helpers in ("chaos", "docker", "e2e", "gateway", "metrics", "model"):
    pytest.register_assert_rewrite(f"tests.{helpers}")

S = TypeVar("S", bound=Server)

ON_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

register_profiles(ON_CI)


def pytest_configure() -> None:
    """End in good order, fixtures and all, when somebody ends the test run, e.g. `timeout`."""
    # As Ctrl-C does, of which asyncio takes care: what is raised in the middle of a task group is wrapped or lost.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` starts."""
    return workers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `docker` say that they did not run where there is no engine: the one thing CI may skip."""
    spread(items)
    marked = [item for item in items if item.get_closest_marker("docker")]
    if marked and not docker_answers():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no Docker engine answers"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole session; a test that needs it empty calls `flush`."""
    yield from _running(RedisServer)


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """A RabbitMQ for the whole session; tests keep apart by their queue names."""
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
    """A port where nobody listens; pytest-asyncio's own is one that an outgoing connection may be given."""
    return free_port()


@pytest.fixture(scope="session")
def font_cache() -> None:
    """Matplotlib's, which takes long when it is made, the first time ever, and then says so on stderr."""
    importlib.import_module("matplotlib.font_manager")


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No setting of ours in the environment, and a working directory without `.env`."""
    ours = set(Settings.model_fields)
    for name in list(os.environ):
        if name.lower() in ours:
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

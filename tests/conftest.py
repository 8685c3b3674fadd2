"""What all tests share: the real servers, started when first asked for, and the hypothesis profiles."""

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from common.settings import Settings
from tests.runners import ServersUnavailableError, docker_answers
from tests.servers import RabbitServer, RedisServer, Server

# So that the asserts of helpers speak. Named here, before any is imported: tests use those of other folders, too.
for helpers in ("chaos", "docker", "e2e", "gateway", "metrics", "model"):
    pytest.register_assert_rewrite(f"tests.{helpers}")

S = TypeVar("S", bound=Server)

ON_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=200, print_blob=True)
hypothesis.settings.load_profile("ci" if ON_CI else "default")


def pytest_configure() -> None:
    """End in good order, fixtures and all, when somebody ends the test run, e.g. `timeout`."""
    # As Ctrl-C does, of which asyncio takes care: what is raised in the middle of a task group is wrapped or lost.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `docker` say that they did not run where there is no engine: the one thing CI may skip."""
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

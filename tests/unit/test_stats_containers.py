"""`smsim stats --containers`: the figures of a Docker engine, by its API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from common.errors import Unavailable, UsageError
from studies.meter import Usage
from studies.stats.containers import Containers

COMPOSE = "com.docker.compose"


class FakeEngine:
    """Answers as the Docker Engine API does (v1.43: /containers/json and /containers/{id}/stats)."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.stats: dict[str, dict[str, Any]] = {}
        self.failing = ""

    def add(self, name: str, service: str | None = None, project: str = "house") -> str:
        labels = {f"{COMPOSE}.service": service, f"{COMPOSE}.project": project} if service else {}
        container = f"id-{name}"
        self.listed.append({"Id": container, "Names": [f"/{name}"], "Labels": labels})
        self.use(container, 0, 0)
        return container

    def use(self, container: str, cpu_s: float, memory: int, cache: int = 0) -> None:
        self.stats[container] = {
            "cpu_stats": {"cpu_usage": {"total_usage": int(cpu_s * 1e9)}},
            "memory_stats": {"usage": memory + cache, "stats": {"inactive_file": cache}},
        }

    def stop(self, container: str) -> None:
        """The engine still answers for a stopped container, without figures."""
        self.stats[container] = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}

    async def list(self, request: web.Request) -> web.Response:
        return web.json_response(self.listed)

    async def one(self, request: web.Request) -> web.Response:
        assert request.query["stream"] == "false"
        if request.match_info["id"] == self.failing:
            raise web.HTTPInternalServerError
        found = self.stats.get(request.match_info["id"])
        return web.json_response(found or {"message": "No such container"}, status=200 if found else 404)


@pytest_asyncio.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    app = web.Application()
    app.router.add_get("/containers/json", engine.list)
    app.router.add_get("/containers/{id}/stats", engine.one)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "docker.sock")).start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'docker.sock'}")
    yield engine
    await runner.cleanup()


async def test_containers_of_a_service_are_one(engine: FakeEngine) -> None:
    """CPU and memory of its containers are added up; a container without a service has its own name."""
    engine.use(engine.add("house_sender_1", "sender"), 1.5, 100)
    engine.use(engine.add("house_sender_2", "sender"), 2.0, 50)
    engine.use(engine.add("lonely"), 7, 7)
    async with Containers([]) as containers:
        assert await containers.sample() == {"sender": Usage(3.5, 150), "lonely": Usage(7, 7)}


async def test_the_cache_is_left_out(engine: FakeEngine) -> None:
    """Pages of files that the kernel can drop do not count."""
    engine.use(engine.add("redis"), 1, 100, cache=5_000)
    async with Containers([]) as containers:
        assert (await containers.sample())["redis"].memory_bytes == 100


@pytest.mark.parametrize(
    ("names", "services"),
    [
        ([], ["sender", "redis", "lonely"]),
        (["house"], ["sender", "redis"]),
        (["sender"], ["sender"]),
        (["house_redis_1", "lonely"], ["redis", "lonely"]),
    ],
)
async def test_which_containers(engine: FakeEngine, names: list[str], services: list[str]) -> None:
    """All, or those of a compose project, a service, or a container's own name."""
    for name, service in ("house_sender_1", "sender"), ("house_redis_1", "redis"), ("lonely", None):
        engine.add(name, service)
    async with Containers(names) as containers:
        assert list(await containers.sample()) == services


async def test_a_container_that_stops_or_goes(engine: FakeEngine) -> None:
    """It is missing from then on; its service keeps the CPU time while another of its containers runs."""
    one, two = engine.add("house_sender_1", "sender"), engine.add("house_sender_2", "sender")
    gone = engine.add("redis")
    for container in one, two, gone:
        engine.use(container, 2, 10)
    async with Containers([]) as containers:
        await containers.sample()
        engine.stop(one)
        del engine.stats[gone]
        assert await containers.sample() == {"sender": Usage(4, 10)}
        engine.stop(two)
        assert await containers.sample() == {}


async def test_a_container_that_is_restarted(engine: FakeEngine) -> None:
    """The engine counts its CPU time from 0; ours continues."""
    container = engine.add("redis")
    engine.use(container, 5, 10)
    async with Containers([]) as containers:
        await containers.sample()
        engine.use(container, 1, 10)
        assert (await containers.sample())["redis"].cpu_s == 6


async def test_an_engine_that_fails_once(engine: FakeEngine) -> None:
    """That look fails as a whole, rather than with some containers missing; the next one has them all."""
    one, two = engine.add("redis"), engine.add("rabbitmq")
    async with Containers([]) as containers:
        await containers.sample()
        engine.failing = one
        with pytest.raises(Unavailable, match="no Docker engine answers"):
            await containers.sample()
        engine.failing = ""
        engine.use(two, 3, 10)
        assert await containers.sample() == {"redis": Usage(0, 0), "rabbitmq": Usage(3, 10)}


async def test_a_name_that_nothing_has(engine: FakeEngine) -> None:
    """A mistake of the user; the error has the name."""
    engine.add("redis")
    with pytest.raises(UsageError, match="no container, service or project rabbit runs here"):
        async with Containers(["redis", "rabbit"]):
            pass


async def test_an_engine_with_nothing_in_it(engine: FakeEngine) -> None:
    """There is nothing to sample."""
    with pytest.raises(UsageError, match="no containers run on unix://"):
        async with Containers([]):
            pass


async def test_no_engine(tmp_path: Path) -> None:
    """The error says where one was expected."""
    with pytest.raises(Unavailable, match=r"no Docker engine answers at unix://.*none.sock \(DOCKER_HOST\)"):
        async with Containers([], f"unix://{tmp_path / 'none.sock'}"):
            pass


async def test_an_address_of_an_unknown_kind() -> None:
    """The error says which kinds there are."""
    with pytest.raises(UsageError, match="DOCKER_HOST=ssh://x: use unix://PATH or tcp://HOST:PORT"):
        async with Containers([], "ssh://x"):
            pass

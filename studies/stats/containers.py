"""Containers as services, by the figures of their Docker engine (Engine API: GET /containers/{id}/stats)."""

import asyncio
import os
from types import TracebackType
from typing import Any, Self

import aiohttp

from common.errors import Unavailable, UsageError
from studies.meter import Usage

DEFAULT_HOST = "unix:///var/run/docker.sock"
PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"


class Containers:
    """The containers that run at the begin: all, or those of some compose projects, services or names.

    An async context manager. The containers of a compose service count as one service. Raises Unavailable if no engine
    answers, and UsageError for a name that no running container has.
    """

    def __init__(self, names: list[str], host: str | None = None) -> None:
        self._names = names
        self._host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._members: dict[str, list[_Container]] = {}

    @property
    def services(self) -> list[str]:
        """The names of the services."""
        return list(self._members)

    async def __aenter__(self) -> Self:
        self._session = _session(self._host)
        try:
            await self._find()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def sample(self) -> dict[str, Usage]:
        every = [one for members in self._members.values() for one in members]
        stats = await asyncio.gather(*(self._stats(one.id) for one in every))
        for one, answer in zip(every, stats, strict=True):
            one.note(answer)
        return {
            name: Usage(sum(one.cpu_s for one in members), sum(one.memory_bytes or 0 for one in members))
            for name, members in self._members.items()
            if any(one.memory_bytes is not None for one in members)
        }

    async def _find(self) -> None:
        unmatched = set(self._names)
        for container in await self._get("/containers/json") or []:
            name, labels = container["Names"][0].removeprefix("/"), container["Labels"] or {}
            service = labels.get(SERVICE, name)
            called = {name, service, labels.get(PROJECT)}
            if self._names and not called & set(self._names):
                continue
            unmatched -= called
            self._members.setdefault(service, []).append(_Container(container["Id"]))
        if unmatched:
            raise UsageError(f"no container, service or project {' or '.join(sorted(unmatched))} runs here")
        if not self._members:
            raise UsageError(f"no containers run on {self._host}")

    async def _stats(self, container: str) -> dict[str, Any] | None:
        # one-shot: the present figures at once, without a second sample for the difference.
        found: dict[str, Any] | None = await self._get(
            f"/containers/{container}/stats", {"stream": "false", "one-shot": "true"}
        )
        return found

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Any:
        """The engine's answer; None if the container is gone."""
        try:
            async with self._session.get(path, params=query) as response:
                if response.status in (404, 409):
                    return None
                response.raise_for_status()
                return await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unavailable(f"no Docker engine answers at {self._host} (DOCKER_HOST): {error}") from None


class _Container:
    def __init__(self, container_id: str) -> None:
        self.id = container_id
        self.memory_bytes: int | None = None
        self._cpu_ns = self._cpu_ns_before = 0

    @property
    def cpu_s(self) -> float:
        return (self._cpu_ns_before + self._cpu_ns) / 1e9

    def note(self, stats: dict[str, Any] | None) -> None:
        """Updates the figures. An answer without memory comes from a container that does not run."""
        memory = (stats or {}).get("memory_stats") or {}
        if stats is None or "usage" not in memory:
            self.memory_bytes = None
            return
        cpu_ns = int(stats["cpu_stats"]["cpu_usage"]["total_usage"])
        if cpu_ns < self._cpu_ns:  # it was restarted, and counts from 0
            self._cpu_ns_before += self._cpu_ns
        self._cpu_ns = cpu_ns
        # As `docker stats` does: without the cache that the kernel can drop, under its name in cgroups v2 or v1.
        detail = memory.get("stats") or {}
        cache = detail.get("inactive_file", detail.get("total_inactive_file", 0))
        self.memory_bytes = max(0, int(memory["usage"]) - int(cache))


def _session(host: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=10.0)
    scheme, _, place = host.partition("://")
    if scheme == "unix":
        connector = aiohttp.UnixConnector(path=place)
        return aiohttp.ClientSession("http://docker", connector=connector, timeout=timeout)
    if scheme in ("tcp", "http"):
        return aiohttp.ClientSession(f"http://{place}", timeout=timeout)
    raise UsageError(f"DOCKER_HOST={host}: use unix://PATH or tcp://HOST:PORT")

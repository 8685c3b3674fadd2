"""One session of measurements: servers of its own, the peers that can be had, and what is recorded of it all."""

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from common.ledger.redis import RedisLedger
from studies.bench.peers import c_client
from studies.bench.peers.catalogue import C_CLIENT
from studies.bench.peers.measure import PeerMeasurement
from studies.bench.peers.port import NotAvailable, Peer
from studies.bench.pipeline import SENDER_CONCURRENCY, Pipeline
from studies.bench.rounds import Rounds, Scenario
from studies.record import PACKAGES, installed, machine, versions
from studies.servers import Servers
from tests.servers import RabbitServer, RedisServer


class Session:
    """What measurements share. `rounds` takes what they give; peers that can't be had are failed there at once."""

    def __init__(self, servers: Servers, pipeline: Pipeline, peers: Iterable[Peer], folder: Path) -> None:
        self.servers = servers
        self.pipeline = pipeline
        self.folder = folder
        self.rounds = Rounds()
        self._peers = tuple(peers)
        self._environments: dict[str, dict[str, str]] = {}
        for peer in self._peers:
            try:
                self._environments[peer.name] = _prepare(peer, folder)
            except NotAvailable as error:
                self.rounds.fail(peer.name, error)

    @classmethod
    @asynccontextmanager
    async def open(cls, peers: Iterable[Peer]) -> AsyncIterator[Self]:
        """Starts the servers. Raises BenchmarkFailed."""
        with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
            servers = Servers(rabbit, redis)
            try:
                yield cls(servers, Pipeline(servers, ledger, Path(folder)), peers, Path(folder))
            finally:
                await ledger.close()

    def of_peers(self, scale: float) -> list[Scenario]:
        """Each peer's works."""
        made = []
        for peer in self._peers:
            messages = max(100, round(peer.messages * scale))
            measurement = PeerMeasurement(
                peer, self.servers, self.folder, self._environments.get(peer.name, {})
            )
            made.append(Scenario(peer.name, partial(measurement.publish_then_consume, messages)))
            made.append(Scenario(peer.name, partial(measurement.both_at_once, messages)))
        return made

    def results(self, **more: Any) -> dict[str, Any]:
        """All that is known of it, as JSON values."""
        packages = dict.fromkeys((*PACKAGES, *(package for peer in self._peers for package in peer.packages)))
        found = versions(self.servers.rabbit, self.servers.redis, packages)
        if C_CLIENT in self._environments:
            found["librabbitmq"] = c_client.librabbitmq_version(self._environments[C_CLIENT])
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": found,
            **more,
            "sender_concurrency": SENDER_CONCURRENCY,
            "peers": [_described(peer, self.rounds.failures.get(peer.name)) for peer in self._peers],
            "figures": self.rounds.figures(),
        }


def _prepare(peer: Peer, folder: Path) -> dict[str, str]:
    """What its processes need besides. Raises NotAvailable."""
    for package in peer.packages:
        if installed(package) is None:
            raise NotAvailable(f"{package} is not installed: make bench installs it")
    return c_client.build(folder) if peer.name == C_CLIENT else {}


def _described(peer: Peer, failure: str | None) -> dict[str, Any]:
    known = {name: asdict(peer)[name] for name in ("name", "publishes", "works", "docs")}
    return known | ({"failure": failure} if failure else {})

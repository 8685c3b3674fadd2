"""One session of measurements: its servers, the peers that are available, and the record."""

import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

from studies.bench.figures import BenchRecord, PeerNote
from studies.bench.ours import SLOTS, Ours
from studies.bench.peers import c_client
from studies.bench.peers.catalogue import C_CLIENT
from studies.bench.peers.measure import opened
from studies.bench.peers.port import NotAvailable, Peer
from studies.bench.rounds import Rounds, Scenario
from studies.bench.works import both_works
from studies.record import PACKAGES, installed_version
from studies.servers import Servers


class Session:
    """The servers, our pipeline and the peers that measurements share.

    Attributes:
        ours: Measures our own works.
        rounds: Collects the measurements. A peer that is not available has failed there from the start.
    """

    def __init__(self, servers: Servers, peers: Iterable[Peer], folder: Path) -> None:
        self.rounds = Rounds()
        self._servers = servers
        self.ours = Ours(servers, folder)
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
        """Starts the servers. Raises StudyFailed."""
        async with Servers.started() as servers:
            with tempfile.TemporaryDirectory() as folder:
                yield cls(servers, peers, Path(folder))

    async def measure(self, scenarios: Sequence[Scenario], rounds: int) -> None:
        """Measures the scenarios in interleaved rounds. Raises StudyFailed where ours fails."""
        for done in range(rounds):
            await self.rounds.add(scenarios, f"round {done + 1} of {rounds}")

    def of_peers(self, scale: float) -> list[Scenario]:
        """The works of each peer."""
        made = []
        for peer in self._peers:
            environment = self._environments.get(peer.name, {})
            messages = max(100, round(peer.messages * scale))
            made += both_works(peer.name, partial(opened, peer, self._servers, environment, messages))
        return made

    def record(self, rounds: int, scale: float) -> BenchRecord:
        """The results, with all that is known of how they were measured."""
        packages = dict.fromkeys((*PACKAGES, *(package for peer in self._peers for package in peer.packages)))
        conditions = self._servers.conditions(packages)
        if C_CLIENT in self._environments:
            conditions["versions"]["librabbitmq"] = c_client.librabbitmq_version(self._environments[C_CLIENT])
        return BenchRecord(
            **conditions,
            rounds=rounds,
            scale=scale,
            sender_concurrency=SLOTS,
            peers=[PeerNote.of(peer, self.rounds.failures.get(peer.name)) for peer in self._peers],
            figures=self.rounds.figures(),
        )


def _prepare(peer: Peer, folder: Path) -> dict[str, str]:
    """Environment variables that the peer's processes need. Raises NotAvailable."""
    for package in peer.packages:
        if installed_version(package) is None:
            raise NotAvailable(f"{package} is not installed: make bench installs it")
    return c_client.build(folder) if peer.name == C_CLIENT else {}

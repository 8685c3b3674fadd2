"""Publications at a rate, through one sender, and how long their messages waited."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies import runs
from studies.latency.noting import DUE, Seconds, due_s, noted_s
from studies.process import Process, StudyFailed
from studies.servers import Pipeline, Servers

# At this rate all messages are due at once.
AT_ONCE_PER_S = 1e9


@dataclass(frozen=True)
class Publication:
    """Messages to publish.

    Attributes:
        name: Its name, unique in a bench.
        messages: How many.
        rate_per_s: How many are due a second.
        batch_size: Messages a batch.
        urgent: Whether they go through the urgent lane.
    """

    name: str
    messages: int
    rate_per_s: float = AT_ONCE_PER_S
    batch_size: int = 1
    urgent: bool = False


class Bench:
    """A queue, a sender and producers. Each run must add up exactly, or it fails.

    Args:
        servers: The servers.
        folder: Where the processes note moments.
        role: Whether the sender notes the begin of sends, or their settles.
        settings: The sender's settings.
    """

    def __init__(self, servers: Servers, folder: Path, *, role: str, **settings: object) -> None:
        self.ledger = servers.ledger
        self.pipeline: Pipeline = servers.pipeline("latency", **settings)
        self._folder = folder
        self._role = role
        self._noted = folder / "noted.npz"

    @contextmanager
    def sender(self) -> Iterator[Process]:
        """A sender; ended well on exit, with its queues."""
        with self._noting(self._role, self._noted) as process:
            yield process
            process.end()
        self.pipeline.delete_queues()

    async def publish(self, publication: Publication, *senders: Process) -> float:
        """Publishes messages. Returns how late the latest was published, in seconds."""
        arguments = ["--num-messages", publication.messages, "--run", self.run_of(publication)]
        arguments += ["--rate", repr(publication.rate_per_s), "--batch-size", publication.batch_size]
        arguments += ["--urgent"] if publication.urgent else []
        with self._noting(DUE, self._due(publication), *arguments) as producer:
            await producer.ended(*senders)
            return float(producer.result()["most_behind_s"])

    async def settled(self, publication: Publication, sender: Process) -> float:
        """Waits until all is settled. Returns the seconds from the run's begin to its last settle."""
        run = self.run_of(publication)
        end = await runs.settled(self.ledger, run, publication.messages, sender)
        await runs.audit(self.ledger, run, publication.messages)
        return runs.elapsed_s(end)

    def due_s(self, publication: Publication) -> Seconds:
        """When each message was due."""
        return due_s(self._due(publication), publication.messages, publication.rate_per_s)

    def noted_s(self, publication: Publication) -> Seconds:
        """The moment that the sender noted of each message. Raises StudyFailed unless it noted each once."""
        seqs, at_s = noted_s(self._noted, self.run_of(publication))
        if not np.array_equal(seqs, np.arange(publication.messages)):
            raise StudyFailed(
                f"{publication.name}: {seqs.size} messages {self._role}, of {publication.messages}"
            )
        return at_s

    def run_of(self, publication: Publication) -> str:
        """The run of a publication."""
        return f"{self.pipeline.queue}-{publication.name}"

    def _due(self, publication: Publication) -> Path:
        return self._folder / f"{publication.name}.due"

    def _noting(self, role: str, file: Path, *arguments: object) -> Process:
        return self.pipeline.process(role, "-m", "studies.latency.noting", role, file, *arguments)

"""When messages were published, and when their sends began, by the monotonic clock that all processes share.

`python -m studies.latency.stamps FILE` is `sender.py` with a provider that notes when each send begins, and no other
change: it writes them to FILE (NumPy's npz) when it ends.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import sender.cli
from common.broker.rabbitmq import RabbitBroker
from common.messages import Batch, Lane, Seqs
from common.settings import Settings
from sender.providers.bulk import BulkProvider, Sends
from sender.providers.registry import build_provider

Times = NDArray[np.int64]


class Stamps:
    """Moments by run and seq, in nanoseconds."""

    def __init__(self) -> None:
        self._noted: dict[str, list[tuple[Seqs, int]]] = {}

    def note(self, run: str, seqs: Seqs) -> None:
        """It happens now to these messages. The array must not change afterwards."""
        self._noted.setdefault(run, []).append((seqs, time.monotonic_ns()))

    def of(self, run: str) -> tuple[Seqs, Times]:
        """All seqs that were noted of a run, as often as they were, in ascending order, and when."""
        noted = self._noted.get(run, [])
        seqs = np.concatenate([np.empty(0, np.int64), *(part for part, _ in noted)])
        times = np.repeat(
            np.array([at for _, at in noted], np.int64), np.array([part.size for part, _ in noted], np.int64)
        )
        order = np.argsort(seqs, kind="stable")
        return seqs[order], times[order]

    def save(self, file: Path) -> None:
        """Writes all; `read` gives it back."""
        by_run: dict[str, Any] = {run: np.stack(self.of(run)) for run in self._noted}
        np.savez(file, **by_run)


def read(file: Path, run: str) -> tuple[Seqs, Times]:
    """What `Stamps.of` gave for a run in the process that saved the file."""
    with np.load(file) as saved:
        if run not in saved:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        seqs, times = saved[run]
    return seqs, times


class StampedBroker(RabbitBroker):
    """Notes when each publish begins."""

    def __init__(self, settings: Settings, stamps: Stamps) -> None:
        super().__init__(settings, "benchmark")
        self._stamps = stamps

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self._stamps.note(batch.run, np.array([message.seq for message in batch.messages], np.int64))
        return super().publish(batch, lane, after)


class StampedProvider:
    """Notes when each send begins, and writes that to a file when it is closed."""

    def __init__(self, provider: BulkProvider, file: Path) -> None:
        self.reads_messages = provider.reads_messages
        self._provider = provider
        self._file = file
        self._stamps = Stamps()

    def start(self, sends: Sends) -> None:
        self._stamps.note(sends.run, sends.seqs)  # providers put another array there when they reorder
        self._provider.start(sends)

    async def close(self) -> None:
        await self._provider.close()
        self._stamps.save(self._file)


def main() -> int:
    """Runs a sender under the settings of the environment."""
    file = Path(sys.argv[1])

    def stamped(settings: Settings) -> BulkProvider:
        return StampedProvider(build_provider(settings), file)

    with patch.object(sender.cli, "build_provider", stamped):
        return sender.cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

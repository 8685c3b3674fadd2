"""Producers and senders that note moments, by the monotonic clock that all processes of a machine share.

`python -m studies.latency.noting ROLE FILE …` runs `producer.py …` or `sender.py …` and writes to FILE:

- `due`, a producer with `--rate`: when message 0 is due;
- `begun`, a sender: when each send began, as NumPy's npz, at its end;
- `settled`, a sender: when the ledger answered each settle, less the time of the send, likewise.

Nothing else differs from the launchers.
"""

import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import producer.cli
import sender.cli
from common.ledger.redis import RedisLedger
from common.ledger.values import Outcomes
from common.messages import Seqs
from common.publishing.pace import Pace
from sender.providers.bulk import Sends
from sender.providers.simulated import SimulatedProvider

DUE, BEGUN, SETTLED = "due", "begun", "settled"

Seconds = NDArray[np.float64]


def due_s(file: Path, count: int, rate_per_s: float) -> Seconds:
    """When each message of a producer's run was due, by seq."""
    return float(file.read_text()) + np.arange(count) / rate_per_s


def noted_s(file: Path, run: str) -> tuple[Seqs, Seconds]:
    """All seqs that a sender noted of a run, ascending, with repeats, and when."""
    with np.load(file) as saved:
        seqs, nanoseconds = saved[run] if run in saved else np.empty((2, 0), np.int64)
    order = np.argsort(seqs, kind="stable")
    return seqs[order], nanoseconds[order] / 1e9


class _Notes:
    """Moments by run and seq."""

    def __init__(self) -> None:
        self._by_run: dict[str, list[NDArray[np.int64]]] = {}

    def add(self, run: str, seqs: Seqs, at_ns: "NDArray[np.int64] | np.int64") -> None:
        self._by_run.setdefault(run, []).append(np.stack([seqs, np.broadcast_to(at_ns, seqs.shape)]))

    def save(self, file: Path) -> None:
        by_run: dict[str, Any] = {run: np.concatenate(parts, axis=1) for run, parts in self._by_run.items()}
        np.savez(file, **by_run)


def _run_producer(file: Path, argv: list[str]) -> int:
    start = Pace.start

    def noted(pace: Pace, first: int) -> None:
        start(pace, first)
        file.write_text(repr(pace.began_s))

    with patch.object(Pace, "start", noted):
        return producer.cli.main(argv)


def _run_noting_begins(file: Path, argv: list[str]) -> int:
    notes, start = _Notes(), SimulatedProvider.start

    def noted(provider: SimulatedProvider, sends: Sends) -> None:
        notes.add(sends.run, sends.seqs, np.int64(time.monotonic_ns()))
        start(provider, sends)

    with patch.object(SimulatedProvider, "start", noted):
        code = sender.cli.main(argv)
    notes.save(file)
    return code


def _run_noting_settles(file: Path, argv: list[str]) -> int:
    notes, settle = _Notes(), RedisLedger.settle

    async def noted(ledger: RedisLedger, run: str, outcomes: Outcomes, *args: Any, **kwargs: Any) -> None:
        await settle(ledger, run, outcomes, *args, **kwargs)
        notes.add(run, outcomes.seqs, time.monotonic_ns() - 1000 * outcomes.times_us)

    with patch.object(RedisLedger, "settle", noted):
        code = sender.cli.main(argv)
    notes.save(file)
    return code


ROLES = {DUE: _run_producer, BEGUN: _run_noting_begins, SETTLED: _run_noting_settles}

if __name__ == "__main__":
    sys.exit(ROLES[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:]))

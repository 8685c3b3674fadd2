"""When messages were due and when they were settled, by the monotonic clock that all processes of a machine share.

`python -m studies.latency.moments producer FILE …` is `producer.py … --rate R` that writes to FILE when message 0 is
due. `python -m studies.latency.moments sender FILE …` is `sender.py …` that writes to FILE (NumPy's npz), when it ends,
when the ledger answered each message's settle. Nothing else differs.
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
from common.publishing.pace import Pace

Seconds = NDArray[np.float64]


def due_s(began_file: Path, count: int, rate_per_s: float) -> Seconds:
    """When each message of a producer's run was due, by seq."""
    return float(began_file.read_text()) + np.arange(count) / rate_per_s


def settled_s(file: Path, run: str) -> tuple[NDArray[np.int64], Seconds]:
    """All seqs of a run that a sender settled, ascending, as often as it did, and when; less the time of the send."""
    with np.load(file) as saved:
        seqs, nanoseconds = saved[run] if run in saved else np.empty((2, 0), np.int64)
    order = np.argsort(seqs, kind="stable")
    return seqs[order], nanoseconds[order] / 1e9


def _produce(file: Path, argv: list[str]) -> int:
    class NotedPace(Pace):
        def start(self, first: int) -> None:
            super().start(first)
            file.write_text(repr(self.began_s))

    with patch.object(producer.cli, "Pace", NotedPace):
        return producer.cli.main(argv)


def _send(file: Path, argv: list[str]) -> int:
    noted: dict[str, list[NDArray[np.int64]]] = {}

    class NotedLedger(RedisLedger):
        async def settle(self, run: str, outcomes: Outcomes, *args: Any, **kwargs: Any) -> None:
            await super().settle(run, outcomes, *args, **kwargs)
            at = time.monotonic_ns() - 1000 * outcomes.times_us
            noted.setdefault(run, []).append(np.stack([outcomes.seqs, at]))

    with patch.object(sender.cli, "RedisLedger", NotedLedger):
        code = sender.cli.main(argv)
    by_run: dict[str, Any] = {run: np.concatenate(parts, axis=1) for run, parts in noted.items()}
    np.savez(file, **by_run)
    return code


if __name__ == "__main__":
    role = {"producer": _produce, "sender": _send}[sys.argv[1]]
    sys.exit(role(Path(sys.argv[2]), sys.argv[3:]))

"""Sends that have ended: their results in a row, and the batches that they belong to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.ledger.values import Outcomes
from common.messages import Outcome
from sender.providers.bulk import Sends
from sender.unacked import UnackedBatch

# Plain numbers: NumPy compares an array with a member of an enum many times more slowly.
RETRY = np.uint8(Outcome.RETRY)
FAILED = np.uint8(Outcome.FAILED)


class Ended(NamedTuple):
    """Sends that have ended, by position.

    Attributes:
        sends: The sends.
        first: The first position.
        beyond: The position after the last one.
    """

    sends: Sends
    first: int
    beyond: int

    @property
    def size(self) -> int:
        """How many sends have ended."""
        return self.beyond - self.first

    def part(self, at: NDArray[np.intp]) -> "Ended":
        """Those at some positions, counted from the first."""
        part = self.sends.part(at + self.first)
        return Ended(part, 0, part.seqs.size)


class Pick(NamedTuple):
    """One message of a batch.

    Attributes:
        seq: Its sequence number.
        batch: The batch that it came in.
    """

    seq: int
    batch: UnackedBatch


class Retry(NamedTuple):
    """A message that is tried again.

    Attributes:
        pick: The message.
        asked_s: The wait before the next attempt that its provider asked for, in seconds.
    """

    pick: Pick
    asked_s: float


def picks_of(sends: Sends, at: Iterable[int]) -> list[Pick]:
    """The messages at some positions of sends."""
    seqs, owners, batches = sends.seqs, sends.owners, sends.batches
    return [Pick(int(seqs[k]), batches[owners[k]]) for k in at]


def results(ended: Sequence[Ended], max_attempts: int) -> Outcomes:
    """The results of all sends in a row."""
    return Outcomes(
        seqs=np.concatenate([sends.seqs[first:beyond] for sends, first, beyond in ended]),
        outcomes=outcomes(ended, max_attempts),
        times_us=np.concatenate([sends.times_us[first:beyond] for sends, first, beyond in ended]),
        ambiguous=_ambiguous(ended),
    )


def outcomes(ended: Sequence[Ended], max_attempts: int) -> NDArray[np.uint8]:
    """The outcomes of all sends in a row. A temporary failure of the last attempt is a failure."""
    found = np.concatenate([sends.outcomes[first:beyond] for sends, first, beyond in ended])
    is_last = [part.sends.attempt >= max_attempts for part in ended]
    if all(is_last):
        found[found == RETRY] = FAILED
    elif any(is_last):
        of_last = np.repeat(is_last, [part.size for part in ended])
        found[(found == RETRY) & of_last] = FAILED
    return found


def by_batch(ended: Sequence[Ended]) -> Counter[UnackedBatch]:
    """How many of the sends are of each batch."""
    owners_of: dict[Sends, list[NDArray[np.int32]]] = {}
    for sends, first, beyond in ended:
        owners_of.setdefault(sends, []).append(sends.owners[first:beyond])
    found: Counter[UnackedBatch] = Counter()
    for sends, owners in owners_of.items():
        _count(sends, owners, found)
    return found


def _count(sends: Sends, owners: list[NDArray[np.int32]], found: Counter[UnackedBatch]) -> None:
    if len(sends.batches) == 1:
        found[sends.batches[0]] += sum(part.size for part in owners)
        return
    counts = np.bincount(np.concatenate(owners))
    touched = np.flatnonzero(counts)
    for owner, count in zip(touched.tolist(), counts[touched].tolist(), strict=True):
        found[sends.batches[owner]] += count


def retries(ended: Sequence[Ended], at: NDArray[np.intp]) -> list[Retry]:
    """The messages at some places among all sends in a row, to be tried again."""
    ends = np.cumsum([part.size for part in ended])
    parts = np.searchsorted(ends, at, side="right")
    before_end = ends[parts] - at
    return [_retry(ended[part], left) for part, left in zip(parts.tolist(), before_end.tolist(), strict=True)]


def _retry(part: Ended, before_end: int) -> Retry:
    at = part.beyond - before_end
    (pick,) = picks_of(part.sends, (at,))
    asked_s = part.sends.retry_after_s
    return Retry(pick, 0.0 if asked_s is None else float(asked_s[at]))


def _ambiguous(ended: Sequence[Ended]) -> NDArray[np.bool_] | None:
    if all(part.sends.ambiguous is None for part in ended):
        return None
    return np.concatenate([_ambiguous_part(part) for part in ended])


def _ambiguous_part(part: Ended) -> NDArray[np.bool_]:
    flags = part.sends.ambiguous
    return np.zeros(part.size, np.bool_) if flags is None else flags[part.first : part.beyond]

"""Audits the books from outside, without the ledger's code, against one another and the provider's record."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from common.keys import Keys
from common.ledger.pieces import PIECE_MESSAGES
from common.messages import State

KEYS = Keys()

COUNTERS = ("published", "sending", "sent", "failed", "retried", "ambiguous", "rejected")
_STATES = (State.SENDING, State.SENT, State.FAILED)

Counters = dict[str, int]


@dataclass(frozen=True)
class Books:
    """The content of the ledger at one moment.

    Attributes:
        stats: The counters over all runs.
        runs: The counters of each run.
        states: The state of each message of a run, by its seq.
        senders: The counters of each sender.
        histogram: The number of settled messages in the latency histogram.
    """

    stats: Counters
    runs: dict[str, Counters]
    states: dict[str, NDArray[np.uint8]]
    senders: dict[str, Counters]
    histogram: int

    @property
    def settled(self) -> int:
        return self.stats["sent"] + self.stats["failed"]

    @property
    def waiting(self) -> int:
        return self.stats["published"] - self.stats["sending"] - self.settled


async def read_books(redis: "Redis", runs: Mapping[str, int], senders: list[str]) -> Books:
    """Reads the books in one transaction. `runs` has the number of messages of each run."""
    pieces = {run: range(-(-messages // PIECE_MESSAGES)) for run, messages in runs.items()}
    pipe = redis.pipeline(transaction=True)
    pipe.hgetall(KEYS.stats)
    pipe.hvals(KEYS.total_latency)
    for sender in senders:
        pipe.hgetall(KEYS.sender(sender))
    for run, numbers in pieces.items():
        pipe.hgetall(KEYS.run(run))
        for piece in numbers:
            pipe.get(f"{KEYS.states(run)}{piece}")
    answers = iter(await pipe.execute())
    stats, histogram = _counters(next(answers)), sum(map(int, next(answers)))
    of_senders = {sender: _counters(next(answers)) for sender in senders}
    of_runs, states = {}, {}
    for run, numbers in pieces.items():
        of_runs[run] = _counters(next(answers))
        found = [_states(next(answers)) for _ in numbers]
        states[run] = np.concatenate(found)[: runs[run]] if found else np.zeros(0, np.uint8)
    return Books(stats, of_runs, states, of_senders, histogram)


def contradictions(books: Books) -> list[str]:
    """The contradictions in the books. There must be none at any moment."""
    found = []
    for run, counters in books.runs.items():
        counted = np.bincount(books.states[run], minlength=4)
        for state in _STATES:
            name = state.name.lower()
            if counted[state] != counters[name]:
                found.append(f"{run}: {counters[name]} {name} by its counter, {counted[state]} by its states")
        if counters["published"] < counted[State.SENDING :].sum():
            found.append(f"{run}: published = queued + sending + sent + failed does not hold: {counters}")
        if counters["published"] != counters["announced"]:
            found.append(f"{run}: {counters['published']} published, {counters['announced']} announced")
    for name in COUNTERS:
        of_runs = sum(counters[name] for counters in books.runs.values())
        if name != "rejected" and of_runs != books.stats[name]:
            found.append(f"{name} is {books.stats[name]} in all, and {of_runs} summed over the runs")
    for name in ("sent", "failed", "retried"):
        of_senders = sum(counters[name] for counters in books.senders.values())
        if of_senders != books.stats[name]:
            found.append(f"{name} is {books.stats[name]} in all, and {of_senders} summed over the senders")
    if books.histogram != books.settled:
        found.append(f"{books.settled} are settled, and the histogram has {books.histogram}")
    return found


def shrunk(before: Books, after: Books) -> list[str]:
    """The counters that decreased. Counters of final states must not, through any crash."""
    return [
        f"{name} went back from {before.stats[name]} to {after.stats[name]}"
        for name in COUNTERS
        if name != "sending" and after.stats[name] < before.stats[name]
    ]


@dataclass(frozen=True)
class Recorded:
    """The books compared with the provider's record of accepted sends.

    Attributes:
        sends: Sends in the record.
        never_sent: Messages that are sent by the books and missing in the record.
        sent_twice: Messages that the record has more than once.
        surplus: Sends in the record beyond the one that the books count for a message; for a failed message, all.
    """

    sends: int
    never_sent: int
    sent_twice: int
    surplus: int


def compare(books: Books, record: Path) -> Recorded:
    """Compares the books with a record file. Raises ValueError if the record has a message of no run."""
    sends = _record(record, {run: states.size for run, states in books.states.items()})
    never_sent = sent_twice = surplus = 0
    for run, states in books.states.items():
        taken, sent = sends[run], states == State.SENT
        never_sent += int((sent & (taken == 0)).sum())
        sent_twice += int((taken > 1).sum())
        surplus += int(taken.sum() - (sent & (taken > 0)).sum())
    return Recorded(int(sum(taken.sum() for taken in sends.values())), never_sent, sent_twice, surplus)


def not_kept(books: Books, bodies: Iterable[bytes]) -> int:
    """How many failed messages are missing in these bodies of the failed queue."""
    found: dict[str, set[int]] = {run: set() for run in books.states}
    for body in bodies:
        batch = json.loads(body)
        found[batch["run"]].update(seq for seq, _, _ in batch["messages"])
    return sum(
        len(set(np.flatnonzero(states == State.FAILED).tolist()) - found[run])
        for run, states in books.states.items()
    )


def _record(record: Path, runs: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """How often the provider accepted each message, by run and seq."""
    seqs: dict[str, list[int]] = {run: [] for run in runs}
    with record.open() as lines:
        for line in lines:
            message, _, attempt = line.rstrip("\n").partition(" ")
            run, _, seq = message.rpartition(".")
            if not (seq.isdigit() and attempt.isdigit() and int(seq) < runs.get(run, 0)):
                raise ValueError(f"the record has a line {line!r}")
            seqs[run].append(int(seq))
    return {run: np.bincount(seqs[run], minlength=messages) for run, messages in runs.items()}


def _counters(fields: Mapping[bytes, bytes]) -> Counters:
    """The counters of a hash; a missing one is 0."""
    named = {name.decode(): value for name, value in fields.items()}
    return {name: int(named.get(name, 0)) for name in (*COUNTERS, "announced", "confirmed", "total")}


def _states(packed: Any) -> NDArray[np.uint8]:
    """Unpacks the states of a piece: two bits a message, the first in the lowest bits; absent means queued."""
    bits = np.zeros(PIECE_MESSAGES * 2, np.uint8)
    found = np.unpackbits(np.frombuffer(packed or b"", np.uint8), bitorder="little")
    bits[: found.size] = found
    return bits[::2] + 2 * bits[1::2]

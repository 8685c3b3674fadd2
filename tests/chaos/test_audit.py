"""The audit: a suite that could not see a loss would prove nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ledger.redis import RedisLedger
from common.ledger.values import Outcomes
from common.messages import Outcome
from common.redis import Client
from tests.chaos.audit import Books, compare, contradictions, read_books, shrunk
from tests.servers import RedisServer

RUNS = {"first": 300, "second": 10}
SENT, FAILED, RETRY = (np.uint8(outcome) for outcome in (Outcome.SENT, Outcome.FAILED, Outcome.RETRY))


@pytest.fixture
async def redis(redis_server: RedisServer) -> Any:
    """An emptied Redis with the books of two runs in it: see `test_it_reads_the_books`."""
    redis_server.flush()
    async with Client(redis_server.settings) as client:
        ledger = RedisLedger(client)
        for run, messages in RUNS.items():
            await ledger.begin(run, "{}", messages, "producer")
            await ledger.announce(run, 0, messages)
        seqs = np.arange(0, 100)
        await ledger.claim("first", seqs, False)
        outcomes = np.where(seqs[:90] < 70, SENT, np.where(seqs[:90] < 80, FAILED, RETRY))
        times_us = np.full(90, 1000, np.int64)
        await ledger.settle("first", Outcomes(seqs[:90], outcomes, times_us), "sender")
        yield client


async def test_it_reads_the_books(redis: Client) -> None:
    """Counters and states are read as the ledger wrote them, and they agree."""
    books = await read_books(redis, RUNS, ["sender"])
    assert books.stats["published"] == 310
    assert (books.settled, books.waiting) == (80, 220)
    assert books.states["first"].tolist() == [2] * 70 + [3] * 10 + [0] * 10 + [1] * 10 + [0] * 200
    assert books.senders["sender"]["retried"] == 10
    assert contradictions(books) == []


@pytest.mark.parametrize(
    ("key", "field", "by", "told"),
    [
        ("sms:stats", "sent", 1, "sent is 71 in all, and 70 summed over the runs"),
        ("sms:stats", "published", -1, "published is 309 in all, and 310 summed over the runs"),
        ("sms:run:first", "sending", 1, "first: 11 sending by its counter, 10 by its states"),
        (
            "sms:run:first",
            "published",
            -211,
            "first: published = queued + sending + sent + failed does not hold",
        ),
        ("sms:run:second", "published", 1, "second: 11 published, 10 announced"),
        ("sms:sender:sender", "failed", -1, "failed is 10 in all, and 9 summed over the senders"),
        ("sms:latency", "5", 1, "80 are settled, and the histogram has 81"),
    ],
)
async def test_it_sees_what_does_not_agree(redis: Client, key: str, field: str, by: int, told: str) -> None:
    """One counter that is off, wherever, is told, with the counter's name."""
    await redis.hincrby(key, field, by)
    found = contradictions(await read_books(redis, RUNS, ["sender"]))
    assert any(line.startswith(told) for line in found), found


async def test_it_sees_a_state_that_is_off(redis: Client) -> None:
    """A message whose state is lost is told, though no counter changed."""
    await redis.setrange("sms:run:first:states:0", 0, b"\x00")
    found = contradictions(await read_books(redis, RUNS, ["sender"]))
    assert found == ["first: 70 sent by its counter, 66 by its states"]


async def test_it_sees_counters_go_back(redis: Client) -> None:
    """What was sent before a crash must be sent after it; what was in hand may have been given back."""
    before = await read_books(redis, RUNS, ["sender"])
    await redis.hincrby("sms:stats", "sent", -1)
    await redis.hincrby("sms:stats", "sending", -1)
    after = await read_books(redis, RUNS, ["sender"])
    assert shrunk(before, after) == ["sent went back from 70 to 69"]
    assert shrunk(before, before) == []


def books(**states: list[int]) -> Books:
    return Books({}, {}, {run: np.array(values, np.uint8) for run, values in states.items()}, {}, 0)


def test_it_compares_with_the_record(tmp_path: Path) -> None:
    """Sent and never in the record, twice in the record, in it though failed: each is counted."""
    record = tmp_path / "record"
    record.write_text("a.0 1\na.2 1\na.2 2\na.2 3\nb.1 1\na.3 1\n")
    found = compare(books(a=[2, 2, 2, 3], b=[3, 0]), record)
    assert (found.sends, found.never_sent, found.sent_twice, found.surplus) == (6, 1, 1, 4)
    assert compare(books(a=[2, 0, 2, 2], b=[0, 2]), record).never_sent == 0


@pytest.mark.parametrize("line", ["a.4 1", "c.0 1", "a.0", "", "a.-1 1"])
def test_a_record_of_something_else(tmp_path: Path, line: str) -> None:
    """A line that names no message of these runs stops the audit: what it recorded is not what was sent."""
    record = tmp_path / "record"
    record.write_text(f"a.0 1\n{line}\n")
    with pytest.raises(ValueError, match="the record has a line"):
        compare(books(a=[2, 0, 0, 0]), record)

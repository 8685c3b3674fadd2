"""The gateway's benchmark: its table follows from the figures, and the page shows what was recorded."""

import json
from typing import Any

import pytest

from common.sms.numbers import normalise
from studies.gateway import load
from studies.gateway.figures import Figures
from studies.gateway.table import PAGE, RECORDED, markdown, with_tables
from studies.process import BenchmarkFailed


def figures() -> Figures:
    """Two connections counts, three rounds each."""
    made = Figures()
    for connections, factor in ((16, 1), (64, 2)):
        for rate in (3000, 5000, 4000):
            for who, times in (("bare", 8), ("wrapped", 4), ("post", 1)):
                seen = load.Requests(rate * factor * times, 1.0, 0.004, 0.0125)
                made.add_requests(who, connections, seen)
        made.add_cpu(connections, {"gateway": 0.25, "sender": 0.125, "rabbitmq": 0.1, "redis": 0.05})
    for kind, per_s in ((load.JSON, 80_000.0), (load.NDJSON, 60_000.0)):
        made.add_batches(kind, 1000, 40, per_s)
    made.add_requests("get", 64, load.Requests(7000, 1.0, 0.01, 0.02))
    return made


def results() -> dict[str, Any]:
    return {
        "measured_at": "2026-11-21",
        "machine": {"cores": 2, "memory_gb": 8.0, "cpu": "a CPU", "system": "Linux 6"},
        "versions": {"python": "3.11"},
        "rounds": 3,
        "seconds": 3,
        "sending": {"SENDER_CONCURRENCY": "20000", "MEAN_PROCESSING_TIME": "0.05"},
        "batches_at_once": 2,
        "messages": 123_456,
        **figures().results(),
    }


def test_the_table_has_medians_and_ratios() -> None:
    """A row for each number of connections: the median of the rounds, and which share of the others' it is."""
    found = markdown(results())
    assert "| 16 | **4,000** (3,000 to 5,000) | 4.0 ms | 12.5 ms | 32,000 | 0.12 | 16,000 | 0.25 |" in found
    assert "| 64 | **8,000** (6,000 to 10,000) |" in found
    assert "| 64 | 0.250 | 0.125 | 0.100 | 0.050 |" in found
    assert "| 1,000 | 40 | **80,000** (80,000 to 80,000) | **60,000** (60,000 to 60,000) |" in found
    assert "64 connections: **7,000** (7,000 to 7,000) requests/s, p50 10.0 ms, p99 20.0 ms" in found
    assert "123,456 messages were accepted in all" in found


def test_the_page_shows_what_was_recorded() -> None:
    """docs/gateway-performance.md has the tables of docs/gateway.json."""
    page = PAGE.read_text()
    assert with_tables(page, markdown(json.loads(RECORDED.read_text()))) == page


def test_the_messages_are_ones_that_the_gateway_takes() -> None:
    """Valid numbers as they stand, in E.164, and each but once; else the load would measure refusals."""
    made = load.messages(1000)
    numbers = [one["number"] for one in made]
    assert [normalise(number) for number in numbers] == numbers
    assert len(set(numbers)) == len({one["text"] for one in made}) == 1000


async def test_batches_that_are_refused_give_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that has not an id for each message is a failure, whatever its status."""
    short = json.dumps({"run": "r", "count": 2, "ids": ["r.0", "r.0"]}).encode()
    monkeypatch.setattr(load, "_post", lambda *_: [short])
    with pytest.raises(BenchmarkFailed, match="batch of 2"):
        await load.batches("http://127.0.0.1:1", "key", load.JSON, b"", 2, 1, 1)

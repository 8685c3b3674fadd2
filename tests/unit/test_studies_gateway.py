"""The gateway's study: its tables follow from the figures, and its load is load that the gateway takes."""

import json

import pytest

from common.sms.numbers import normalise
from studies.gateway import load
from studies.gateway.figures import Figures, GatewayRecord
from studies.gateway.table import markdown
from studies.process import StudyFailed
from studies.record import Machine


def figures() -> Figures:
    """Two numbers of connections, three rounds each."""
    made = Figures()
    for connections, factor in ((16, 1), (64, 2)):
        for rate in (3000, 5000, 4000):
            for who, times in (("bare", 8), ("post", 1)):
                done = rate * factor * times
                seen = load.Requests(done=done, time_s=1.0, p50_s=0.004, p99_s=0.0125)
                made.add_requests(who, connections, seen)
        made.add_cpu(connections, {"gateway": 0.25, "sender": 0.125, "rabbitmq": 0.1, "redis": 0.05})
    for kind, per_s in ((load.JSON, 80_000.0), (load.NDJSON, 60_000.0)):
        made.add_batches(kind, 1000, 40, per_s)
    made.add_requests("get", 64, load.Requests(done=7000, time_s=1.0, p50_s=0.01, p99_s=0.02))
    return made


def test_the_table_has_medians_and_ratios() -> None:
    """A row for each number of connections: the median of the rounds, and its share of the others' rates."""
    made = figures()
    record = GatewayRecord(
        measured_at="2026-11-21",
        machine=Machine(cores=2, memory_gb=8.0, cpu="a CPU", system="Linux 6"),
        versions={"python": "3.11"},
        rounds=3,
        scale=1.0,
        seconds=3,
        sending={"SENDER_CONCURRENCY": "20000", "MEAN_PROCESSING_TIME": "0.05"},
        batches_at_once=2,
        messages=123_456,
        requests=made.requests(),
        batches=made.batches(),
        cpu_ms_a_message=made.cpu(),
    )
    found = markdown(record)
    assert "| 16 | **4,000** (3,000 to 5,000) | 4.0 ms | 12.5 ms | 32,000 | 0.12 |" in found
    assert "| 64 | **8,000** (6,000 to 10,000) |" in found
    assert "| 64 | 0.250 | 0.125 | 0.100 | 0.050 |" in found
    assert "| 1,000 | 40 | **80,000** (80,000 to 80,000) | **60,000** (60,000 to 60,000) |" in found
    assert "64 connections: **7,000** (7,000 to 7,000) requests/s, p50 10.0 ms, p99 20.0 ms" in found
    assert "123,456 messages were accepted in all" in found


def test_the_messages_are_ones_that_the_gateway_takes() -> None:
    """Numbers in E.164, each once: otherwise the load would measure refusals."""
    made = load.messages(1000)
    numbers = [one["number"] for one in made]
    assert [normalise(number) for number in numbers] == numbers
    assert len(set(numbers)) == len({one["text"] for one in made}) == 1000


async def test_an_answer_without_an_id_for_each_message_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a failure, whatever its status."""
    short = json.dumps({"run": "r", "count": 2, "ids": ["r.0", "r.0"]}).encode()
    monkeypatch.setattr(load.Upload, "_post", lambda *_: [short])
    upload = load.Upload(url="http://127.0.0.1:1/x", key="key", kind=load.JSON, body=b"", messages=2)
    with pytest.raises(StudyFailed, match="2 messages were answered with 2 ids"):
        await upload.post(requests=1, at_once=1)

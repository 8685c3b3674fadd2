"""The monitor, as a process."""

import json
import sys
from signal import SIGTERM

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import ROOT, run_to_end
from tests.waiting import eventually

# What programs read from the monitor's output: no field may go or change its name.
FIELDS = {
    *("published", "queued", "sending", "sent", "failed", "canceled", "retried", "ambiguous", "rejected"),
    "senders",
    *("avg_time_s", "p50_s", "p95_s", "p99_s", "rate_per_s", "elapsed_s", "eta_s"),
}


async def test_a_json_line_each_interval(pipeline: Pipeline) -> None:
    """Every line on stdout is a JSON object with all fields; the counters grow to the end, and SIGTERM ends it."""
    monitor = pipeline.monitor("--update-interval", 0.1)
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.2, SENDER_CONCURRENCY=50)
    run = (await pipeline.published("--num-messages", 300))["run"]
    await pipeline.assert_exact(run, 300, [sender])
    await eventually(lambda: bool(monitor.events) and monitor.events[-1].get("eta_s") == 0)

    monitor.signal(SIGTERM)
    assert await monitor.ended() == 0

    lines = [json.loads(line) for line in monitor.stdout.splitlines()]
    assert monitor.stderr == ""
    said = [line for line in lines if line["event"] == "statistics"]
    assert len(said) > 10
    assert all(line.keys() >= FIELDS | {"timestamp", "level", "service"} for line in said)
    for line in said:
        assert line["published"] == line["queued"] + line["sending"] + line["sent"] + line["failed"]
    settled = [line["sent"] + line["failed"] for line in said]
    assert settled == sorted(settled)
    assert settled[-1] == 300
    assert any(0 < count < 300 for count in settled)
    assert any(line["rate_per_s"] > 0 and line["senders"] == 1 for line in said)


async def test_a_ledger_that_was_emptied_is_told(pipeline: Pipeline) -> None:
    """One warning by the monitor and one by the sender; the rate is never below zero."""
    monitor = pipeline.monitor("--update-interval", 0.1)
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.01)
    await pipeline.settled((await pipeline.published("--num-messages", 300))["run"], 300)
    await eventually(lambda: bool(monitor.events) and monitor.events[-1].get("sent", 0) > 200)
    pipeline.redis.flushdb()
    await eventually(lambda: monitor.logged("ledger_lost_writes") and sender.logged("ledger_lost_writes"))
    await eventually(lambda: monitor.events[-1].get("sent") == 0)
    for launched in (monitor, sender):
        launched.signal(SIGTERM)
        assert await launched.ended() == 0
        assert [event["event"] for event in launched.events].count("ledger_lost_writes") == 1
    assert all(event.get("rate_per_s", 0) >= 0 for event in monitor.events)


async def test_once_prints_one_object(pipeline: Pipeline) -> None:
    """`--once` puts one JSON object on stdout and nothing else anywhere, and nothing to log on stdout."""
    monitor = pipeline.monitor("--once")
    assert await monitor.ended() == 0
    assert set(json.loads(monitor.stdout)) == FIELDS
    assert monitor.stdout.count("\n") == 1
    assert monitor.stderr == ""


async def test_of_a_run_that_is_not_there(pipeline: Pipeline) -> None:
    """`--run` of an unknown run: one clear line, exit 2."""
    monitor = pipeline.monitor("--once", "--run", "unheard-of")
    assert await monitor.ended() == 2
    assert monitor.stdout == ""
    assert monitor.stderr == "monitor.py: no run unheard-of in the ledger\n"


async def test_a_closed_pipe(pipeline: Pipeline) -> None:
    """`monitor.py | head -1` ends by itself, with no traceback."""
    errors = pipeline.folder / "errors"
    command = f"{sys.executable} {ROOT}/monitor.py --update-interval 0.05 2>{errors} | head -1"
    done = run_to_end(["sh", "-c", command], pipeline.folder, pipeline.environment())
    assert json.loads(done.stdout)["event"] == "statistics"
    assert errors.read_text() == ""

"""`smsim replay`, `audit`, `cancel`, `forget` on real servers, as an operator would type them; and the rate limit."""

import json
import signal
from typing import Any

import pytest

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.waiting import eventually


async def smsim(pipeline: Pipeline, *arguments: object, code: int = 0) -> tuple[list[Any], str]:
    """What a command printed on stdout, line by line, JSON decoded; and what it said on stderr."""
    launched = pipeline.start("smsim", *arguments)
    assert await launched.ended() == code, launched.stderr
    lines = launched.stdout.splitlines()
    assert "Traceback" not in launched.stderr
    return [json.loads(line) if line.startswith("{") else line for line in lines], launched.stderr


async def stop(*senders: Launched) -> None:
    for sender in senders:
        sender.signal(signal.SIGTERM)
    for sender in senders:
        assert await sender.ended() == 0, sender.stderr


async def test_messages_that_a_policy_dead_letters_are_found_and_sent(pipeline: Pipeline) -> None:
    """An operator's message-ttl puts them into the rejected queue: the monitor counts them, the audit names the place
    and the remedy, and the remedy works.
    """
    pipeline.use(MEAN_PROCESSING_TIME=0, FAILURE_RATE=0)
    policy = pipeline.queue
    pattern = f"^{pipeline.queue}$"
    pipeline.rabbit.ctl("set_policy", policy, pattern, '{"message-ttl": 100}', "--apply-to", "queues")
    await pipeline.published("--num-messages", 20, "--run", "old")
    rejected = f"{pipeline.queue}.rejected"
    await eventually(lambda: pipeline.depths()[rejected] == 20)
    pipeline.rabbit.ctl("clear_policy", policy)

    monitor = pipeline.monitor("--once")
    assert await monitor.ended() == 0, monitor.stderr
    assert json.loads(monitor.stdout)["rejected"] == 20

    lines, _ = await smsim(pipeline, "audit", "--repair")
    assert f"20 are in {rejected}" in lines[0]
    assert "IN NO QUEUE" not in lines[0]
    (new,), _ = await smsim(pipeline, "replay", "--rejected")
    assert (new["of"], new["published"]) == ("old", 20)
    await pipeline.assert_exact(new["run"], 20, [pipeline.sender()])


async def test_replay_audit_and_forget(pipeline: Pipeline) -> None:
    """Failed messages are kept, replayed as a new run, sent; the audit agrees each time; the old run is forgotten."""
    pipeline.use(KEEP_FAILED="true", MEAN_PROCESSING_TIME=0.05)
    sender = pipeline.sender(FAILURE_RATE=0.3)
    await pipeline.published("--num-messages", 500, "--batch-size", 7, "--run", "old")
    failed = (await pipeline.settled("old", 500)).failed
    assert 90 < failed < 210
    await stop(sender)

    (dry,), _ = await smsim(pipeline, "replay", "--dry-run")
    assert dry == {"dry_run": True, "of": "old", "messages": failed}
    nothing, said = await smsim(pipeline, "replay", "--failed", "--run", "another")
    assert nothing == []
    assert f"{failed} messages are of other runs and stay" in said
    (new,), _ = await smsim(pipeline, "replay")
    assert (new["of"], new["published"]) == ("old", failed)
    assert pipeline.depths()[f"{pipeline.queue}.failed"] == 0

    report, _ = await smsim(pipeline, "audit", "--json")
    assert report[0]["right"]
    assert report[0]["not_at_rest"] == ""
    assert {run["run"]: run["queued"] for run in report[0]["runs"]} == {"old": 0, new["run"]: failed}

    sender = pipeline.sender(FAILURE_RATE=0)
    assert (await pipeline.settled(new["run"], failed)).sent == failed
    await stop(sender)
    lines, _ = await smsim(pipeline, "audit")
    assert lines[-1] == "the record is right"

    _, said = await smsim(pipeline, "forget", "nosuch", code=2)
    assert said == "smsim forget: no run nosuch in the ledger\n"
    assert (await smsim(pipeline, "forget", "old", new["run"]))[0] == [
        {"forgotten": "old"},
        {"forgotten": new["run"]},
    ]
    left: list[str] = pipeline.redis.keys("sms:run:*")  # type: ignore[assignment]  # a sync client's answer
    assert all(key.endswith(":forgotten") for key in left)
    assert pipeline.hash("sms:stats")["published"] == 500 + failed
    assert (await smsim(pipeline, "audit"))[0][-1] == "the record is right"


async def test_a_run_is_canceled(pipeline: Pipeline) -> None:
    """What is queued of it is canceled and never sent, the audit agrees, and an unknown run is said so."""
    await pipeline.published("--num-messages", 100, "--batch-size", 10, "--run", "drill")
    counts = {"canceled": 100, "sending": 0, "sent": 0, "failed": 0}
    assert (await smsim(pipeline, "cancel", "--json", "drill"))[0] == [{"run": "drill", **counts}]
    (line,), _ = await smsim(pipeline, "cancel", "drill")
    assert line == "drill: 100 canceled; 0 are being sent, 0 were sent, 0 had failed"
    _, said = await smsim(pipeline, "cancel", "nosuch", code=2)
    assert said == "smsim cancel: no run nosuch in the ledger\n"
    sender = pipeline.sender()
    await eventually(lambda: pipeline.depths()[pipeline.queue] == 0)
    await stop(sender)
    now = await pipeline.ledger.snapshot("drill")
    assert (now.published, now.sent, now.failed, now.canceled) == (100, 0, 100, 100)
    assert (await smsim(pipeline, "audit"))[0][-1] == "the record is right"


async def test_an_audit_finds_what_was_lost_and_repairs_it(pipeline: Pipeline) -> None:
    """A queue that somebody purged: the messages are in no queue, and --repair lets the run end."""
    await pipeline.published("--num-messages", 100, "--batch-size", 10, "--run", "purged")
    channel = pipeline.channel()
    channel.queue_purge(pipeline.queue)
    channel.connection.close()
    await eventually(lambda: pipeline.depths()[pipeline.queue] == 0)

    lines, _ = await smsim(pipeline, "audit", code=1)
    assert "100 ARE IN NO QUEUE" in lines[0]
    assert lines[-1] == "THE RECORD IS NOT RIGHT"
    lines, _ = await smsim(pipeline, "audit", "--repair")
    assert "100 that were in no queue are now failed" in lines[0]
    now = await pipeline.ledger.snapshot("purged")
    assert (now.published, now.failed, now.queued) == (100, 100, 0)


async def test_the_audit_leaves_the_queues_as_they_are(pipeline: Pipeline) -> None:
    """A backlog in lane and retry queues is looked at, is all there afterwards, and is then sent."""
    pipeline.use(MAX_ATTEMPTS=2, RETRY_BACKOFF=4, MEAN_PROCESSING_TIME=0.02, SEED=5)
    sender = pipeline.sender(FAILURE_RATE=0.5, SENDER_CONCURRENCY=50)
    await pipeline.published("--num-messages", 3000, "--batch-size", 20, "--run", "backlog")
    await pipeline.progress("backlog", 500)
    await stop(sender)

    bodies = sum(pipeline.depths().values())
    report, _ = await smsim(pipeline, "audit", "--json")
    assert report[0]["right"], report
    assert report[0]["bodies_in_queues"] > 10
    assert report[0]["runs"][0]["missing"] == 0
    # Some move from a retry queue to the lane meanwhile, and are in neither for a moment.
    await eventually(lambda: sum(pipeline.depths().values()) >= bodies)

    sender = pipeline.sender(FAILURE_RATE=0, SENDER_CONCURRENCY=500)
    now = await pipeline.assert_exact("backlog", 3000, [sender])
    # What the first sender had begun of its last batch came back with it, and may have a retry on its way besides.
    assert now.ambiguous <= 20


async def test_repair_leaves_the_backlog_of_another_queue_alone(pipeline: Pipeline) -> None:
    """Two pipelines on one Redis: what waits in the other's queue is not lost, though it is in none of ours."""
    other = f"{pipeline.queue}-other"
    try:
        await pipeline.published("--num-messages", 5, "--run", "ours")
        await pipeline.published("--num-messages", 20, "--run", "theirs", QUEUE_NAME=other)
        report, _ = await smsim(pipeline, "audit", "--repair", "--json")
        assert report[0]["right"]
        found = {run["run"]: (run["queue"], run["missing"], run["repaired"]) for run in report[0]["runs"]}
        assert found == {"ours": (pipeline.queue, 0, 0), "theirs": (other, 0, 0)}
        assert (await pipeline.ledger.snapshot("theirs")).queued == 20
        assert pipeline.rabbit.queue_depths(other) == {other: 20}
    finally:
        pipeline.rabbit.delete_queues(other, f"{other}.urgent", f"{other}.rejected")


async def test_an_audit_makes_no_queues(pipeline: Pipeline) -> None:
    """A wrong address, or a QUEUE_NAME that is not there: empty queues in its place would make all look lost."""
    missing = f"{pipeline.queue}-missing"
    await pipeline.ledger.begin("elsewhere", json.dumps({"queue": missing}), 5, "p")
    await pipeline.ledger.announce("elsewhere", 0, 5)
    await pipeline.ledger.confirm("elsewhere", 5)
    pipeline.use(QUEUE_NAME=missing)
    lines, said = await smsim(pipeline, "audit", "--repair", code=1)
    assert (lines, said) == ([], f"smsim audit: RabbitMQ has no queue {missing} now\n")
    assert pipeline.rabbit.queue_depths(missing, f"{missing}.urgent", f"{missing}.rejected") == {}
    assert (await pipeline.ledger.snapshot("elsewhere")).queued == 5


async def test_repair_waits_until_all_is_at_rest(pipeline: Pipeline) -> None:
    """With a sender at work the counters are recounted, the queues left alone, and --repair refused in one line."""
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.01)
    await pipeline.published("--num-messages", 50, "--run", "busy")
    await pipeline.settled("busy", 50)
    lines, _ = await smsim(pipeline, "audit")
    assert lines[-2].startswith("the queues were not compared: 1 senders are alive")
    assert lines[-1] == "the record is right"
    _, said = await smsim(pipeline, "audit", "--repair", code=2)
    assert said.startswith("smsim audit: --repair needs everything at rest, but 1 senders are alive")
    assert said.count("\n") == 1
    await stop(sender)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "--failed", "--rejected"), "not allowed with argument"),
        (("replay", "--limit", 0), "'0' is not a whole number of at least 1"),
        (("audit", "--run", "No Name"), "'No Name' is no name for a run"),
        (("audit", "--run", "nosuch"), "no run nosuch in the ledger"),
        (("forget",), "the following arguments are required: RUN"),
    ],
)
async def test_bad_usage(pipeline: Pipeline, arguments: tuple[object, ...], says: str) -> None:
    """One line, exit code 2, nothing done."""
    lines, said = await smsim(pipeline, *arguments, code=2)
    assert lines == []
    assert says in said
    assert said.count("\n") == 1


async def test_a_run_that_goes_on_is_not_forgotten(pipeline: Pipeline) -> None:
    """Forgetting it would make its messages count anew; nothing of it is touched."""
    await pipeline.published("--num-messages", 5, "--run", "waits")
    before = pipeline.hash("sms:run:waits")
    _, said = await smsim(pipeline, "forget", "waits", code=2)
    assert said.startswith("smsim forget: run waits ")
    assert pipeline.hash("sms:run:waits") == before


@pytest.mark.parametrize("senders", [1, 5])
async def test_the_rate_limit_holds_over_all_senders(pipeline: Pipeline, senders: int) -> None:
    """Five senders together begin no more than one alone, little is held unacked, and all is sent."""
    rate = 200
    pipeline.use(PROVIDER_RATE=rate, MEAN_PROCESSING_TIME=0.01, FAILURE_RATE=0, SENDER_CONCURRENCY=1000)
    launched = [pipeline.sender() for _ in range(senders)]
    await eventually(lambda: all(sender.logged("sender_started") for sender in launched))
    await pipeline.published("--num-messages", 1000, "--run", "limited")

    await pipeline.progress("limited", 100)
    waiting = pipeline.depths()[pipeline.queue]
    first = await pipeline.ledger.snapshot("limited")
    second = await pipeline.settled("limited", 600)
    # The bucket granted what began between the two, by the clock of Redis, and what was granted shortly before.
    passed_s = (second.now_us - first.now_us) / 1e6
    began = second.settled + second.sending - first.settled - first.sending
    assert began <= rate * passed_s + 1 + 0.1 * rate + rate * 0.2
    # What waits in the senders for a grant: about two seconds' worth. What is claimed or settled since does not count.
    held = 1000 - waiting - first.settled - first.sending
    assert held <= senders * 3 * rate
    now = await pipeline.assert_exact("limited", 1000, launched)
    assert now.sent == 1000
    assert now.ambiguous == 0

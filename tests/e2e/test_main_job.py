"""The main job: a producer, two senders and the monitor, as a user types them."""

import pytest

from tests.e2e.pipeline import Pipeline

COUNTERS = ("published", "sending", "sent", "failed", "retried", "ambiguous", "rejected")


async def test_the_main_job(pipeline: Pipeline) -> None:
    """1000 messages through two senders: every one is accounted for, and monitor and Redis say the same."""
    pipeline.use(MEAN_PROCESSING_TIME=0.2, FAILURE_RATE=0.1)
    senders = [pipeline.sender(), pipeline.sender()]

    report = await pipeline.published("--num-messages", 1000)
    run = report["run"]
    assert report["published"] == 1000
    assert set(report) == {"run", "published", "elapsed_s", "rate_per_s"}
    await pipeline.assert_exact(run, 1000, senders)

    said = await pipeline.statistics(run)
    assert (said["published"], said["queued"], said["sending"]) == (1000, 0, 0)
    assert said["sent"] + said["failed"] == 1000
    assert 60 <= said["failed"] <= 140
    assert said["avg_time_s"] == pytest.approx(0.2, rel=0.05)
    assert said["p50_s"] == pytest.approx(0.2, rel=0.1)
    assert said["eta_s"] == 0

    stats = pipeline.hash("sms:stats")
    assert {name: stats[name] for name in COUNTERS} == {name: said[name] for name in COUNTERS}
    assert stats["total_time_us"] / 1e6 / 1000 == pytest.approx(said["avg_time_s"], abs=1e-6)
    shares = pipeline.shares()
    assert len(shares) == 2
    assert sum(shares.values()) == 1000


async def test_contacts_with_a_template(pipeline: Pipeline) -> None:
    """A CSV file of contacts is sent, `--wait` returns when all is settled, and the closing line says so."""
    contacts = pipeline.folder / "contacts.csv"
    contacts.write_text("name,phone\n" + "".join(f"N{i},+35840{i:07}\n" for i in range(300)))
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.05, FAILURE_RATE=0)

    report = await pipeline.published(
        *("--contacts", contacts, "--text", "Hi {name}", "--batch-size", 7, "--run", "alert", "--wait")
    )

    assert report["run"] == "alert"
    assert (await pipeline.ledger.snapshot("alert")).sent == 300
    await pipeline.assert_exact("alert", 300, [sender])


async def test_the_embedded_pipeline(pipeline: Pipeline) -> None:
    """`smsim simulate --json` prints one JSON object with the monitor's fields and exact totals."""
    simulation = pipeline.start(
        *("smsim", "simulate", "--num-messages", 2000, "--senders", 500, "--json"), MEAN_PROCESSING_TIME=0.1
    )
    assert await simulation.ended() == 0
    (said,) = [line for line in simulation.events if "published" in line]
    assert simulation.stdout.count("\n") == 1
    assert said["published"] == said["sent"] + said["failed"] == 2000
    assert simulation.stderr == ""

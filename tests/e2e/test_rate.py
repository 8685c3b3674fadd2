"""`producer.py --rate`: open arrivals on real servers, for contacts too, and on with a run that broke off."""

from signal import SIGINT

from tests.e2e.pipeline import Pipeline
from tests.waiting import eventually


async def test_contacts_at_a_rate(pipeline: Pipeline) -> None:
    """No message before it is due: 100 at 200/s take 99/200 s at least; then all are followed to their end."""
    contacts = pipeline.folder / "contacts.csv"
    contacts.write_text("number\n" + "".join(f"+35840{k:07}\n" for k in range(100)))
    pipeline.use(MEAN_PROCESSING_TIME=0)
    sender = pipeline.sender()
    report = await pipeline.published(
        "--contacts", contacts, "--text", "Hi", "--rate", 200, "--batch-size", 7, "--run", "paced", "--wait"
    )
    assert report["published"] == 100
    assert report["elapsed_s"] >= 99 / 200
    assert report["most_behind_s"] >= report["behind_s"] >= 0
    await pipeline.assert_exact("paced", 100, [sender])


async def test_a_slow_run_is_resumed_at_its_rate_or_another(pipeline: Pipeline) -> None:
    """Stopped between two messages it goes on after the last confirmed one, at its own rate or at the one given."""
    total = 2_000
    pipeline.use(MEAN_PROCESSING_TIME=0)
    producer = pipeline.producer("--num-messages", total, "--rate", 100, "--run", "slow")
    await eventually(lambda: pipeline.hash("sms:run:slow").get("confirmed", 0) > 10)
    producer.signal(SIGINT)
    assert await producer.ended() == 130
    confirmed = pipeline.hash("sms:run:slow")["confirmed"]
    assert confirmed < total

    producer = pipeline.producer("--resume", "slow")
    await eventually(lambda: pipeline.hash("sms:run:slow").get("confirmed", 0) > confirmed)
    producer.signal(SIGINT)
    assert await producer.ended() == 130
    confirmed = pipeline.hash("sms:run:slow")["confirmed"]
    assert confirmed < total

    report = await pipeline.published("--resume", "slow", "--rate", 1_000_000)
    assert report["published"] == total - confirmed
    await pipeline.assert_exact("slow", total, [pipeline.sender()])

"""Producers that died, and runs that are gone on with."""

from signal import SIGINT, SIGKILL

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.waiting import eventually


async def refused(producer: Launched) -> str:
    """The one line on stderr of a producer that was used wrongly, and published nothing."""
    assert await producer.ended() == 2, producer.stderr
    assert producer.stdout == ""
    assert producer.stderr.count("\n") == 1, producer.stderr
    return producer.stderr


async def test_a_killed_producer_is_resumed(pipeline: Pipeline) -> None:
    """SIGKILL in mid-run, then `--resume`: in the end each message is accounted for once, and none is missing."""
    total = 300_000
    pipeline.use(BATCH_SIZE=10, MEAN_PROCESSING_TIME=0.1, SENDER_CONCURRENCY=10_000)
    sender = pipeline.sender()
    producer = pipeline.producer("--num-messages", total, "--run", "broken-off")
    await eventually(lambda: pipeline.hash("sms:run:broken-off").get("confirmed", 0) > 5_000)
    producer.signal(SIGKILL)
    confirmed = pipeline.hash("sms:run:broken-off")["confirmed"]
    assert confirmed < total

    # Who looks at once can't tell a dead producer from one that pauses.
    assert "is being published by" in await refused(pipeline.producer("--resume", "broken-off"))

    async def resumed() -> Launched | None:
        again = pipeline.producer("--resume", "broken-off")
        return again if await again.ended() == 0 else None

    again = await eventually(resumed, 120, "the former producer counts as gone")
    assert again is not None
    assert again.events[-1]["published"] == total - confirmed
    await pipeline.assert_exact("broken-off", total, [sender])

    assert (await pipeline.published("--resume", "broken-off"))["published"] == 0
    assert (await pipeline.ledger.snapshot("broken-off")).published == total


async def test_a_producer_whose_run_was_given_up_ends(pipeline: Pipeline) -> None:
    """`smsim audit --repair` took it for dead: it says so in one line, publishes no more, and can't be resumed."""
    run = "given-up"
    producer = pipeline.producer("--num-messages", 1_000_000, "--rate", 100, "--run", run)
    await eventually(lambda: pipeline.hash(f"sms:run:{run}").get("confirmed", 0) > 0)
    await pipeline.ledger.close_run(run)

    assert await producer.ended() == 1, producer.stderr
    assert producer.stdout == ""
    (complaint,) = [line for line in producer.stderr.splitlines() if f"run {run} was closed by" in line]
    assert "smsim audit --repair" in complaint
    assert "Traceback" not in producer.stderr
    assert f"run {run} was given up after" in await refused(pipeline.producer("--resume", run))


async def test_a_run_name_is_taken_once(pipeline: Pipeline) -> None:
    """`--run` of a run that exists publishes nothing; `--resume` of one that doesn't exist, neither."""
    await pipeline.published("--num-messages", 10, "--run", "twice")

    assert "run twice exists already" in await refused(
        pipeline.producer("--num-messages", 10, "--run", "twice")
    )
    assert "no run unheard-of" in await refused(pipeline.producer("--resume", "unheard-of"))

    assert pipeline.hash("sms:stats")["published"] == 10
    assert pipeline.depths()[pipeline.queue] == 10
    assert not pipeline.redis.exists("sms:run:unheard-of")


async def test_a_csv_run_is_resumed_from_the_same_file_only(pipeline: Pipeline) -> None:
    """A contacts file that changed since is refused; the old one put back, the run goes on."""
    contacts = pipeline.folder / "contacts.csv"
    contacts.write_text("number\n+358401234567\n")
    await pipeline.published("--contacts", contacts, "--text", "Hi", "--run", "from-csv")

    contacts.write_text("number\n+358401234568\n")
    assert "is not the file that the run began with" in await refused(
        pipeline.producer("--resume", "from-csv")
    )

    contacts.write_text("number\n+358401234567\n")
    assert (await pipeline.published("--resume", "from-csv"))["published"] == 0
    assert pipeline.depths()[pipeline.queue] == 1


async def test_a_producer_stopped_by_ctrl_c_is_resumed_at_once(pipeline: Pipeline) -> None:
    """It says how to go on, and gives its run up, so that nobody has to wait."""
    total = 300_000
    pipeline.use(BATCH_SIZE=10, MEAN_PROCESSING_TIME=0, SENDER_CONCURRENCY=10_000)
    producer = pipeline.producer("--num-messages", total, "--run", "stopped")
    await eventually(lambda: pipeline.hash("sms:run:stopped").get("confirmed", 0) > 1_000)
    producer.signal(SIGINT)
    assert await producer.ended() == 130
    assert producer.stderr == "stopped: continue with --resume stopped\n"

    await pipeline.published("--resume", "stopped")
    await pipeline.assert_exact("stopped", total, [pipeline.sender()])

"""Retries, the urgent lane, and how work is shared out."""

import shutil
import socket
import sys
from pathlib import Path

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import ROOT, run_to_end
from tests.waiting import eventually


async def test_retries_through_the_retry_queues(pipeline: Pipeline) -> None:
    """Three attempts at a failure rate of one half: an eighth is failed in the end, and no copy is left anywhere."""
    pipeline.use(MAX_ATTEMPTS=3, FAILURE_RATE=0.5, RETRY_BACKOFF=0.2, MEAN_PROCESSING_TIME=0.05)
    sender = pipeline.sender()
    run = (await pipeline.published("--num-messages", 2000, "--batch-size", 10))["run"]

    now = await pipeline.assert_exact(run, 2000, [sender])
    assert 0.09 < now.failed / 2000 < 0.16
    assert 0.65 < now.retried / 2000 < 0.85, "1/2 of all after the first attempt, 1/4 after the second"
    assert now.ambiguous == 0


async def test_urgent_messages_pass_the_bulk_ones(pipeline: Pipeline) -> None:
    """50 urgent messages, published while 20,000 bulk ones wait for one slow sender, are sent before most of them."""
    pipeline.use(MEAN_PROCESSING_TIME=0.2, FAILURE_RATE=0)
    pipeline.sender(SENDER_CONCURRENCY=20)
    await pipeline.published("--num-messages", 20_000, "--run", "bulk")
    await pipeline.progress("bulk", 20)

    await pipeline.published("--num-messages", 50, "--run", "urgent", "--urgent", "--wait")

    assert (await pipeline.ledger.snapshot("urgent")).sent == 50
    assert 20 <= (await pipeline.ledger.snapshot("bulk")).settled < 10_000


async def test_five_senders_share_the_work(pipeline: Pipeline) -> None:
    """Each of five equal senders does a fair share: prefetch leaves none idle while another hoards."""
    pipeline.use(MEAN_PROCESSING_TIME=0.5, SENDER_CONCURRENCY=20)
    senders = [pipeline.sender("--name", f"sender-{k}") for k in range(5)]
    await eventually(lambda: all(sender.logged("sender_started") for sender in senders))

    run = (await pipeline.published("--num-messages", 1000))["run"]
    await pipeline.assert_exact(run, 1000, senders)

    shares = pipeline.shares()
    assert len(shares) == 5
    assert sum(shares.values()) == 1000
    assert all(50 <= share <= 500 for share in shares.values()), shares


async def test_scale_sender_with_real_senders(pipeline: Pipeline) -> None:
    """`scale_sender.sh` 2, 1, 0: so many senders work, each under its name and with its log; they send a run."""
    place = _checkout(pipeline.folder / "checkout")
    pipeline.use(MEAN_PROCESSING_TIME=0.05, FAILURE_RATE=0)

    def scale(senders: int) -> None:
        done = run_to_end(["./scale_sender.sh", str(senders)], place, pipeline.environment())
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    async def only(*senders: str) -> bool:
        return set((await pipeline.ledger.snapshot()).senders) == set(senders)

    names = [f"{socket.gethostname()}-{k}" for k in (1, 2)]
    logs = [place / "sender_logs" / f"sender_instance_{k}.log" for k in (1, 2)]
    try:
        scale(2)
        await eventually(lambda: only(*names))
        await pipeline.published("--num-messages", 2000, "--run", "scaled")
        await pipeline.settled("scaled", 2000)
        assert set(pipeline.shares()) == set(names)

        scale(1)
        assert "sender_stopped" in logs[1].read_text()
        assert "sender_stopped" not in logs[0].read_text()
        await eventually(lambda: only(names[0]))
    finally:
        scale(0)
    assert "sender_stopped" in logs[0].read_text()
    assert not list(place.glob("sender_logs/*.pid"))
    await pipeline.assert_exact("scaled", 2000, [])


def _checkout(folder: Path) -> Path:
    """What scale_sender.sh needs, in a folder of its own, so that it meets no senders of the user's."""
    folder.mkdir()
    for name in ("sender", "common"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("scale_sender.sh", "sender.py"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder

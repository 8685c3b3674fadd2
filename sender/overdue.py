"""What a sender would hold for too long is published again, for itself or for whoever is next, and then acked."""

from collections import deque

from sender.recorder import Recorder
from sender.unacked import UnackedBatch

# What can't be done within this time at the present rate is published again in smaller batches: RabbitMQ takes back
# what was not acked within its consumer timeout, 30 minutes by default.
LATEST_S = 600.0


def split(waiting: deque[UnackedBatch], slots: int, recorder: Recorder) -> None:
    """Splits the batches that so many slots could not finish in time."""
    if not recorder.mean_time_s:
        return
    in_time = int(LATEST_S * slots / recorder.mean_time_s)
    piece, ahead = max(1, in_time // 10), 0
    for batch in list(waiting):
        ahead += batch.waiting
        if ahead > in_time and batch.waiting > piece:
            rest = _take_rest(batch, waiting)
            for i in range(0, len(rest), piece):
                recorder.publish_again(batch, set(rest[i : i + piece]), batch.attempt)


def pass_on(waiting: deque[UnackedBatch], now_s: float, recorder: Recorder) -> None:
    """What a rate limit has held back for so long goes to the end of the queue, for whoever is next."""
    for batch in [b for b in waiting if now_s - b.came_s > LATEST_S and not b.delivery.stale]:
        recorder.publish_again(batch, set(_take_rest(batch, waiting)), batch.attempt)


def _take_rest(batch: UnackedBatch, waiting: deque[UnackedBatch]) -> list[int]:
    """The seqs of a batch that are not begun, which no longer wait here."""
    rest: list[int] = batch.seqs[batch.begun :].tolist()
    batch.begun = batch.seqs.size
    waiting.remove(batch)
    return rest

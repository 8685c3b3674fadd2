"""What a sender tells of tracked messages: that a send began, and what came of it once that is settled."""

import time
from itertools import accumulate

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.messages import Outcome
from common.tracking.port import Status, Step
from sender.providers.bulk import Sends
from sender.unacked import LONGEST_NO_NUMBER

_STATUS = {Outcome.SENT: Status.SENT, Outcome.FAILED: Status.FAILED, Outcome.RETRY: Status.QUEUED}


def begun(sends: Sends) -> list[Step]:
    """The steps of sends that begin now."""
    at_us = time.time_ns() // 1000
    return [
        _step(sends, seq, owner, Status.SENDING, at_us)
        for seq, owner in zip(sends.seqs.tolist(), sends.owners.tolist(), strict=True)
    ]


def ended(parts: list[tuple[Sends, int, int]], outcomes: NDArray[np.uint8]) -> list[Step]:
    """The steps of ended sends, from `first` to `beyond - 1` of each, that were settled just now with `outcomes`.

    What is to be tried again is queued; a number that is none has failed, and no send took any time.
    """
    at_us = time.time_ns() // 1000
    steps = []
    ends = accumulate(beyond - first for _, first, beyond in parts)
    for (sends, first, beyond), end in zip(parts, ends, strict=True):
        if not sends.track:
            continue
        of_part = outcomes[end - (beyond - first) : end], sends.times_us[first:beyond]
        numbers = (a.tolist() for a in (sends.seqs[first:beyond], sends.owners[first:beyond], *of_part))
        for seq, owner, outcome, time_us in zip(*numbers, strict=True):
            took_us = None if seq in sends.batches[owner].bad else time_us
            steps.append(_step(sends, seq, owner, _STATUS[outcome], at_us, took_us))
    return steps


def _step(sends: Sends, seq: int, owner: int, status: Status, at_us: int, time_us: int | None = None) -> Step:
    message = sends.batches[owner].messages[seq]
    if len(message.to) > LONGEST_NO_NUMBER:
        message = msgspec.structs.replace(message, to=message.to[:LONGEST_NO_NUMBER])
    return Step(
        run=sends.run,
        message=message,
        status=status,
        attempt=sends.attempt,
        at_us=at_us,
        time_us=time_us,
    )

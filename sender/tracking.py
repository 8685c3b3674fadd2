"""The steps of tracked messages that a sender publishes: a send has begun, a send is settled."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.messages import Outcome
from common.tracking.port import Status, Step
from sender.copies import truncated
from sender.ended import Ended
from sender.providers.bulk import Sends

_STATUS = {Outcome.SENT: Status.SENT, Outcome.FAILED: Status.FAILED, Outcome.RETRY: Status.QUEUED}


def begun_steps(sends: Sends) -> list[Step]:
    """The steps of sends that begin now."""
    at_us = time.time_ns() // 1000
    return [_step(sends, place, status=Status.SENDING, at_us=at_us) for place in range(sends.seqs.size)]


def settled_steps(ended: Sequence[Ended], outcomes: NDArray[np.uint8]) -> list[Step]:
    """The steps of ended sends that were settled just now with `outcomes`, those of all sends in a row.

    A message to be tried again is queued. A message with a bad number has failed, and its send took no time.
    """
    at_us = time.time_ns() // 1000
    steps: list[Step] = []
    first = 0
    for part in ended:
        of_part = outcomes[first : first + part.size]
        first += part.size
        if part.sends.track:
            steps += [
                _step(part.sends, place, status=_STATUS[outcome], at_us=at_us, timed=True)
                for place, outcome in enumerate(of_part.tolist(), part.first)
            ]
    return steps


def _step(sends: Sends, place: int, *, status: Status, at_us: int, timed: bool = False) -> Step:
    """The step of the message at a position. `timed`: with the time that its send took, if there was a send."""
    seq = int(sends.seqs[place])
    batch = sends.batches[sends.owners[place]]
    return Step(
        run=sends.run,
        message=truncated(batch.messages[seq]),
        status=status,
        attempt=sends.attempt,
        at_us=at_us,
        time_us=int(sends.times_us[place]) if timed and seq not in batch.bad else None,
    )

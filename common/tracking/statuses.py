"""The statuses of messages in the words of the API, as the ledger has them."""

from collections.abc import Sequence

import numpy as np

from common.ledger.port import Reports
from common.messages import State
from common.tracking.port import Status

_STATUS = {state: Status[state.name] for state in State}


async def statuses_of(ledger: Reports, run: str, seqs: Sequence[int]) -> list[Status]:
    """The status of each message of a run; QUEUED for unknown ones. Raises UnknownRun."""
    wanted = np.array(seqs, np.int64)
    states = await ledger.states(run, wanted)
    statuses = [_STATUS[State(state)] for state in states.tolist()]
    if (states == State.FAILED).any():
        for at in np.flatnonzero(await ledger.canceled(run, wanted)).tolist():
            statuses[at] = Status.CANCELED
    return statuses

"""Takes messages back whose publish was not confirmed, so that an answer of 503 means: surely not sent."""

import numpy as np

from common.ledger.port import Ledger, Outcomes, Standing
from common.messages import Outcome, Seqs

PIECE = 10_000


async def withdraw(ledger: Ledger, run: str, seqs: Seqs) -> Seqs:
    """Settles as failed what no sender has taken yet, and gives the seqs of the rest, which is accepted after all.

    The broker may hold an unconfirmed message or not. By a claim of our own nobody else can take it any more; once it
    is settled, a sender that finds it in the queue skips it. Where the ledger's answer to our claim was lost, nobody
    knows whose the message is: it fails, and counts as ambiguous.
    """
    taken = []
    for i in range(0, seqs.size, PIECE):
        piece = seqs[i : i + PIECE]
        standing = await ledger.claim(run, piece, redelivered=False)
        ours = standing <= Standing.AMBIGUOUS
        taken.append(piece[~ours])
        if ours.any():
            failed = np.full(int(ours.sum()), Outcome.FAILED, np.uint8)
            times_us = np.zeros(failed.size, np.int64)
            unsure = standing[ours] == Standing.AMBIGUOUS
            await ledger.settle(
                run, Outcomes(piece[ours], failed, times_us, unsure if unsure.any() else None)
            )
    return np.concatenate(taken) if taken else seqs

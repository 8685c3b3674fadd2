"""For tests of callbacks: the settings, a provider, and messages with callbacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.messages import Outcome
from sender.providers.bulk import Sends
from tests.gateway.running import NUMBER
from tests.receiver import SECRET

ELSEWHERE = "https://example.org/told"  # for callbacks that are never delivered
ON: dict[str, Any] = {"callback_secret": SECRET, "callback_allow_private": True}


class Odd:
    """A provider that fails the odd seqs."""

    reads_messages = False

    def start(self, sends: Sends) -> None:
        sends.outcomes[:] = np.where(sends.seqs % 2, Outcome.FAILED, Outcome.SENT)
        sends.finish(0, sends.seqs.size)

    async def close(self) -> None:
        return


def batch(messages: int, url: str = ELSEWHERE, without: Sequence[int] = ()) -> list[dict[str, str]]:
    """Messages with callbacks, except for some."""
    items = [{"number": NUMBER, "text": str(k), "callback_url": url} for k in range(messages)]
    for k in without:
        del items[k]["callback_url"]
    return items

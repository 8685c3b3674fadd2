"""For tests of providers: sends to start, with what was reported of them, and a service to send to."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from common.messages import Message, Outcome, Seqs
from sender.providers.bulk import Sends
from sender.providers.draws import Draws, Stream
from sender.providers.port import Result

NUMBER = "+358401234560"
TEXT = "Water is rising, leave now"


def failures(seed: int, seqs: Seqs, attempt: int, rate: float) -> NDArray[np.bool_]:
    """Which sends fail with a probability, where the provider has no other failures."""
    return Draws(seed, seqs, attempt).uniforms(Stream.OUTCOME) < rate


class Reports:
    """Sends to start, and what was reported of them.

    Attributes:
        sends: The sends; message k is the k-th of `numbers`.
        results: What was reported of each seq.
        times_us: The time reported of each seq.
        calls: The number of reports.
    """

    def __init__(self, numbers: Sequence[str], attempt: int = 1, first_seq: int = 0) -> None:
        self.results: dict[int, Result] = {}
        self.times_us: dict[int, int] = {}
        self.calls = 0
        seqs = np.arange(first_seq, first_seq + len(numbers), dtype=np.int64)
        self.sends = Sends(
            run="a-run",
            attempt=attempt,
            seqs=seqs,
            owners=(seqs % 3).astype(np.int32),
            batches=[],
            on_finish=self._finished,
            messages=[Message(seq, to, TEXT) for seq, to in zip(seqs.tolist(), numbers, strict=True)],
        )
        self._count = len(numbers)

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        assert first < beyond, "an empty report"
        self.calls += 1
        for k in range(first, beyond):
            seq = int(sends.seqs[k])
            assert seq not in self.results, "reported twice"
            assert int(sends.owners[k]) == seq % 3, "the owner of another message"
            self.results[seq] = Result(
                outcome=Outcome(sends.outcomes[k]),
                retry_after_s=0.0 if sends.retry_after_s is None else float(sends.retry_after_s[k]),
                ambiguous=sends.ambiguous is not None and bool(sends.ambiguous[k]),
            )
            self.times_us[seq] = int(sends.times_us[k])

    @property
    def complete(self) -> bool:
        return len(self.results) == self._count


@dataclass
class StubService:
    """Answers by the last digit of the number, both as the HTTP provider and as the example's Acme expect it.

    Attributes:
        url: Where it listens.
        accepted: The ids of the messages that it accepted.
    """

    REFUSED = "1"
    THROTTLED = "2"
    DROPPED = "3"

    url: str = ""
    accepted: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        message_id, number = body.get("id") or body["reference"], body.get("to") or body["recipient"]
        last = number[-1]
        if last == self.DROPPED:
            assert request.transport is not None
            request.transport.abort()
        elif last == self.THROTTLED:
            return web.json_response({}, status=429, headers={"Retry-After": "2"})
        elif last == self.REFUSED:
            if "reference" in body:
                return web.json_response({"status": "rejected", "cause": "blocked"})
            return web.json_response({}, status=422)
        else:
            self.accepted.append(message_id)
        return web.json_response({"status": "accepted"})


@contextlib.asynccontextmanager
async def stub_service() -> AsyncIterator[StubService]:
    """A service on a free port of this machine, in this process."""
    service, app = StubService(), web.Application()
    app.router.add_post("/sms", service.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/sms"
        yield service
    finally:
        await runner.cleanup()

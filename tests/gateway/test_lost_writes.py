"""Redis has lost what it was told: a failover, a FLUSHALL; or another gateway took this one for dead and ended its run.
Who sends then hears 503, and the next one is accepted.
"""

from functools import partial

import pytest

from common.ledger.memory import MemoryLedger
from common.publishing.run import Limits, RunPublisher
from gateway.acceptance.recovery import Recovery
from tests.gateway.running import NUMBER, Running, running


class Forgetful(MemoryLedger):
    """Loses all that it knew at the announcement with this number, counted from now."""

    losing_at = 0

    async def announce(self, run: str, first: int, count: int) -> None:
        self.losing_at -= 1
        if self.losing_at == 0:
            self._runs.clear()
        await super().announce(run, first, count)


async def post(gateway: Running, path: str, body: object) -> tuple[int, str | None]:
    """Status and Retry-After."""
    async with gateway.http.post(path, json=body) as answer:
        return answer.status, answer.headers.get("Retry-After")


async def test_a_message_after_a_loss_is_refused_and_the_next_one_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """503 with Retry-After, for the message whose seq the ledger can't place; no traceback, and a new session."""
    ledger = Forgetful()
    async with running(ledger=ledger) as gateway:
        first = (await gateway.send())["uuid"].split(".")[0]
        ledger.losing_at = 1
        status, retry_after = await post(gateway, "/sms", {"number": NUMBER, "text": "hello"})
        assert (status, bool(retry_after)) == (503, True)
        accepted = await gateway.send()
        assert accepted["uuid"].split(".")[0] != first
        assert (await gateway.ends(accepted["uuid"]))["status"] == "sent"
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_batch_during_which_all_is_lost_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After; nothing of it is left to be sent later."""
    small_blocks = partial(RunPublisher, limits=Limits(announced_block=500))
    monkeypatch.setattr("gateway.acceptance.batch_intake.RunPublisher", small_blocks)
    ledger = Forgetful()
    async with running(ledger=ledger, sends=False) as gateway:
        ledger.losing_at = 3
        items = [{"number": NUMBER, "text": "hello"}] * 2_000
        status, retry_after = await post(gateway, "/sms/batch", items)
        assert (status, bool(retry_after)) == (503, True)
        assert await ledger.open_runs() == []
        ledger.losing_at = 0
        assert (await gateway.post("/sms/batch", items))[0] == 202
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_message_after_a_takeover_is_refused_and_the_next_one_goes_into_a_new_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This gateway slept, and another one has ended its run: whatever would be announced there nobody would finish."""
    ledger = MemoryLedger()
    async with running(ledger=ledger) as gateway:
        first = (await gateway.send())["uuid"].split(".")[0]
        ledger._runs[first].producer_seen_us = 0
        await Recovery(gateway.broker, ledger, gateway.tracker, "another").finish(first)
        status, retry_after = await post(gateway, "/sms", {"number": NUMBER, "text": "hello"})
        assert (status, bool(retry_after)) == (503, True)
        accepted = await gateway.send()
        assert accepted["uuid"].split(".")[0] != first
        assert (await gateway.ends(accepted["uuid"]))["status"] == "sent"
        assert (await ledger.snapshot(first)).published == 1
    assert await ledger.open_runs() == []
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_gateway_whose_session_is_lost_ends_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    """There is no run any more to be closed."""
    ledger = Forgetful()
    async with running(ledger=ledger) as gateway:
        await gateway.ends((await gateway.send())["uuid"])
        ledger._runs.clear()
    assert await ledger.runs() == []
    assert not [record for record in caplog.records if record.exc_info]

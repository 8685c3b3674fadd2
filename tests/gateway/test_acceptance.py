"""Acceptance under crashes, sleeps, lost answers and outages: each 202 is sent, each key is one message."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.messages import Lane, State
from common.publishing.recipes import origin_in
from gateway.acceptance.limits import AcceptanceLimits
from gateway.acceptance.port import NOBODY, Item, Owner
from tests.gateway.accepting import Away, Shared, World, world
from tests.gateway.calling_back import ELSEWHERE
from tests.gateway.running import NUMBER
from tests.waiting import eventually

MESSAGES = {"/sms": 1, "/sms/batch": 3}
CALLS = {"/sms": "accept", "/sms/batch": "accept_run"}
KEY = {"Idempotency-Key": "one"}
SMS = {"number": NUMBER, "text": "hello", "callback_url": ELSEWHERE}
BRISK = AcceptanceLimits(answer_s=0.05, run_answer_s=0.05)

both = pytest.mark.parametrize("path", list(MESSAGES))


class OneBroker(MemoryBroker):
    """Two gateways use it, so that none of them closes it."""

    async def close(self) -> None:
        return


@contextlib.asynccontextmanager
async def two_gateways(**about: Any) -> AsyncIterator[tuple[World, World]]:
    """The first has no sender, so that what is sent is sent by the second's."""
    shared, broker = Shared(), OneBroker()
    async with (
        world(shared, broker=broker, sends=False, limits=BRISK, **about) as first,
        world(shared, broker=broker, limits=BRISK, **about) as second,
    ):
        yield first, second


async def post(it: World, path: str) -> tuple[int, Any]:
    """The request, always the same."""
    body = SMS if path == "/sms" else [SMS] * MESSAGES[path]
    return await it.gateway.post(path, body, headers=KEY)


async def accepted(it: World, path: str) -> list[str]:
    """The ids of the messages, once the request is answered 202."""
    status, body = await post(it, path)
    assert status == 202, body
    return [body["uuid"]] if path == "/sms" else list(body["ids"])


async def are_sent_once(it: World, uuids: list[str]) -> None:
    """These messages are sent, and no others."""

    async def sent() -> bool:
        for uuid in uuids:
            run, _, seq = uuid.partition(".")
            assert await it.shared.ledger.states(run, np.array([int(seq)])) == [State.SENT]
        now = await it.shared.ledger.snapshot()
        assert (now.published, now.queued, now.sending, now.sent) == (len(uuids), 0, 0, len(uuids))
        assert await it.shared.store.backlog() == (0, 0)
        return True

    await eventually(sent, describe="all is sent, once")


async def lease_ends(it: World) -> None:
    """So much time passes that another gateway may take over."""
    it.shared.now_s += 60


@both
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_gateway_may_die_while_it_accepts(path: str, when: str) -> None:
    """Whether its call was carried out or not, the next request with the key is answered 202, and it is sent once."""
    async with two_gateways() as (first, second):
        gate = first.store.gate(f"{when} {CALLS[path]}")
        gate.shut()
        posting = asyncio.create_task(post(first, path))
        await gate.reached.wait()
        await first.die()
        await lease_ends(first)
        uuids = await accepted(second, path)
        await are_sent_once(second, uuids)
        assert (await posting)[0] >= 500


@both
async def test_a_gateway_may_die_before_it_has_published(path: str) -> None:
    """It had answered 202: another gateway takes its run over, publishes, and closes it."""
    async with two_gateways() as (first, second):
        gate = first.store.gate("before confirm")
        gate.shut()
        uuids = await accepted(first, path)
        await gate.reached.wait()
        await first.die()
        await lease_ends(first)
        await are_sent_once(second, uuids)
        run = uuids[0].partition(".")[0]

        async def is_over() -> bool:
            now = await first.shared.ledger.snapshot(run)
            return now.total == now.settled == len(uuids)

        await eventually(is_over, describe="the run is closed")
        assert await accepted(second, path) == uuids


async def test_the_log_says_why_messages_were_not_accepted(caplog: pytest.LogCaptureFixture) -> None:
    """Redis was silent, which is no error with words of its own."""
    async with two_gateways() as (first, _):
        gate = first.store.gate("before accept")
        gate.shut()
        await post(first, "/sms")
        gate.wake()
    reasons = [vars(record)["reason"] for record in caplog.records if record.msg == "not_accepted"]
    assert reasons == ["no answer within 0.05 s"]


@both
async def test_a_call_that_is_carried_out_late_accepts_nothing_twice(path: str) -> None:
    """The gateway gave up waiting, the client repeated its request, and then the first call arrived in Redis."""
    async with two_gateways() as (first, second):
        gate = first.store.gate(f"before {CALLS[path]}")
        gate.shut()
        status, problem = await post(first, path)
        assert (status, "it is unknown" in problem["detail"]) == (503, True)
        uuids = await accepted(second, path)
        gate.wake()
        await are_sent_once(second, uuids)
        assert await accepted(first, path) == uuids


@both
async def test_a_lost_answer_is_said_to_be_open(path: str) -> None:
    """503: nobody knows. What was accepted is sent all the same, and its key gives the same message."""
    async with two_gateways() as (first, second):
        gate = first.store.gate(f"after {CALLS[path]}")
        gate.shut()
        status, problem = await post(first, path)
        assert (status, "it is unknown" in problem["detail"]) == (503, True)
        uuids = await accepted(first, path)
        gate.wake()
        await lease_ends(first)  # of the batch's run, of which the gateway knows nothing
        await are_sent_once(second, uuids)


async def test_a_gateway_that_slept_past_its_lease_accepts_into_another_run() -> None:
    """Another gateway has taken its run over: the message is accepted all the same, and nothing is sent twice."""
    async with two_gateways() as (first, second):
        before = (await first.gateway.send())["uuid"]
        await are_sent_once(second, [before])
        first.shared.now_s += 60
        taken = await second.shared.store.take_over(silent_s=0)
        assert taken is not None
        after = (await first.gateway.send())["uuid"]
        assert after.partition(".")[0] != before.partition(".")[0]
        await eventually(lambda: _total(first, 2), describe="both are sent")


async def _total(it: World, sent: int) -> bool:
    now = await it.shared.ledger.snapshot()
    assert now.published == sent
    return now.sent == sent


async def test_a_canceled_run_takes_no_more() -> None:
    """Somebody ended the gateway's open run: the next message is accepted into another."""
    async with world() as it:
        before = (await it.gateway.send())["uuid"].partition(".")[0]
        await it.shared.ledger.close_run(before)
        after = (await it.gateway.send())["uuid"].partition(".")[0]
        assert after != before
        await eventually(lambda: _total(it, 2), describe="both are sent")


async def test_what_comes_meanwhile_goes_together() -> None:
    """Messages that come while a call is under way are one group, or several where a group is full."""
    async with world(limits=AcceptanceLimits(group=12), sends=False) as it:
        acceptance = it.gateway.gateway.acceptance
        gate = it.store.gate("before accept")
        gate.shut()
        receipts = [acceptance.submit(Lane.BULK, Item(NUMBER, "first"))]
        await gate.reached.wait()
        receipts += [acceptance.submit(Lane.BULK, Item(NUMBER, "meanwhile")) for _ in range(20)]
        gate.wake()
        ids = [receipt.id for receipt in await asyncio.gather(*receipts)]
        run = ids[0].partition(".")[0]
        assert ids == [f"{run}.{seq}" for seq in range(21)]
        assert it.store.groups == [1, 12, 8]


async def test_a_message_whose_client_has_gone_is_left_out() -> None:
    """It was still waiting: it is not accepted, and the others are."""
    async with world(sends=False) as it:
        acceptance = it.gateway.gateway.acceptance
        gate = it.store.gate("before accept")
        gate.shut()
        first = acceptance.submit(Lane.BULK, Item(NUMBER, "first"))
        await gate.reached.wait()
        gone, stays = (acceptance.submit(Lane.BULK, Item(NUMBER, text)) for text in ("gone", "stays"))
        gone.cancel()
        gate.wake()
        await asyncio.gather(first, stays)
        assert (await it.shared.ledger.snapshot()).published == 2
        assert acceptance.pending == 0


async def test_an_urgent_message_waits_behind_no_bulk_one() -> None:
    """Neither for the store, nor for the broker after an outage: each lane has a run of its own."""
    broker = Away()
    async with world(broker=broker, sends=False) as it:
        gate = it.store.gate("before accept")
        gate.shut()
        bulk = asyncio.create_task(it.gateway.send())
        await gate.reached.wait()
        urgent = await it.gateway.send(priority="urgent")
        gate.wake()
        assert (await bulk)["uuid"].partition(".")[0] != urgent["uuid"].partition(".")[0]


@both
async def test_a_stopped_gateway_leaves_what_it_cannot_publish(path: str) -> None:
    """RabbitMQ is away: it stops soon and gives its lease up; the next gateway sends what it had accepted."""
    shared, broker = Shared(), Away()
    async with world(shared, broker=broker, sends=False) as first:
        uuids = await accepted(first, path)
    assert await shared.store.backlog() != (0, 0)
    async with world(shared) as second:
        await are_sent_once(second, uuids)


async def test_messages_of_different_owners_share_no_run() -> None:
    """Each has a run of its own in each lane, which belongs to it in the ledger."""
    async with world(sends=False) as it:
        acceptance = it.gateway.gateway.acceptance
        owners = [NOBODY, Owner("one"), Owner("two"), Owner("one")]
        receipts = [acceptance.submit(Lane.BULK, Item(NUMBER, "text"), owner) for owner in owners]
        runs = [receipt.id.partition(".")[0] for receipt in await asyncio.gather(*receipts)]
        assert runs[1] == runs[3]
        assert len(set(runs)) == 3
        found = [origin_in((await it.shared.ledger.publication(run)).recipe).owner for run in runs]
        assert found == [None, "one", "two", "one"]


async def test_an_idle_run_is_closed() -> None:
    """Its relay ends; the next message of its owner goes into another run."""
    limits = AcceptanceLimits(idle_s=0.0, look_s=0.01)
    async with world(limits=limits) as it:
        acceptance = it.gateway.gateway.acceptance
        first = await acceptance.submit(Lane.BULK, Item(NUMBER, "text"), Owner("one"))

        async def is_closed() -> bool:
            return not (acceptance._tasks or acceptance._relays._relays)

        await eventually(is_closed, describe="nothing works for the run any more")
        assert acceptance.pending == 0
        second = await acceptance.submit(Lane.BULK, Item(NUMBER, "text"), Owner("one"))
        assert first.id.partition(".")[0] != second.id.partition(".")[0]

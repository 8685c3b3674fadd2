"""Every field of a message survives: no store, copy or wire form of ours may drop one.

The messages are made from the fields of `Message` itself, each with a value that is not its default. A field that is
added to `Message` and forgotten in one of the copies fails here.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import ParkedQueue
from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import (
    MAX_TEXT_CHARS,
    Batch,
    Lane,
    Message,
    Outcome,
    decode_batch,
    encode_batch,
    fitting,
)
from common.redis import connect_redis
from common.settings import load_settings
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Status, Step, Tracker
from common.tracking.redis import RedisTracker
from common.tracking.wire import (
    decode_brief,
    decode_record,
    decode_step,
    encode_brief,
    encode_record,
    encode_step,
)
from gateway.acceptance.port import Item
from gateway.api.schemas import BatchItem, SmsIn
from sender.copies import RetryPolicy
from sender.providers.port import OutgoingMessage
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from tests.kept import keep_records, keep_texts
from tests.servers import RedisServer
from tests.waiting import eventually
from upkeep.parked import Selection
from upkeep.replay import Replay

RUN = "a-run"
NUMBER = "+541166587382"


def message(seq: int) -> Message:
    """A message with a value of its own in each field."""
    values = {field.name: value_of(field, seq) for field in msgspec.structs.fields(Message)}
    return msgspec.convert([*values.values()], Message)


def value_of(field: msgspec.structs.FieldInfo, seq: int) -> Any:
    """A value that is not the field's default."""
    if field.name == "seq":
        return seq
    if field.name == "to":
        return NUMBER
    kinds = {field.type, *get_args(field.type)}
    if str in kinds:
        return f"{field.name[:4]} {seq}"
    if bool in kinds:
        return not field.default
    return 1_000 + seq


MESSAGES = [message(seq) for seq in range(7)]
RECORD = Record(run=RUN, message=MESSAGES[3], accepted_us=5, lane=Lane.URGENT, callback_url="http://x/")
STEP = Step(run=RUN, message=MESSAGES[3], status=Status.SENT, attempt=2, at_us=6_000_000, time_us=1_000_000)


def batch(messages: list[Message] = MESSAGES) -> Batch:
    return Batch(run=RUN, messages=messages)


def test_a_batch_and_its_parts_keep_every_field() -> None:
    """The wire form, and the parts into which a batch is split that is too large for a body."""
    assert decode_batch(encode_batch(batch()))[0].messages == MESSAGES

    large = [msgspec.structs.replace(message(seq), text="\x01" * MAX_TEXT_CHARS) for seq in range(400)]
    parts = list(fitting(batch(large)))
    assert len(parts) > 1
    assert [one for part in parts for one in part.messages] == large


def test_records_and_steps_keep_every_field_on_the_wire() -> None:
    """As they are kept in Redis, and as they are published."""
    assert decode_record(encode_record(RECORD), RUN, 3) == RECORD
    assert decode_brief(encode_brief(STEP), RUN, STEP.message) == STEP
    assert decode_step(encode_step(STEP)) == STEP
    assert RECORD.accepted.message == RECORD.message


@pytest.fixture(params=["memory", "redis"])
async def tracker(request: pytest.FixtureRequest) -> AsyncIterator[Tracker]:
    if request.param == "memory":
        yield MemoryTracker()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    client = await connect_redis(load_settings(redis_host=server.host, redis_port=server.port), 10)
    tracker = RedisTracker(client)
    yield tracker
    await tracker.close()
    await client.aclose()


async def test_a_tracker_keeps_every_field(tracker: Tracker) -> None:
    """Of messages that were kept or opened, and of steps that were published."""
    await keep_texts(tracker, RUN, MESSAGES[:3])
    await keep_records(tracker, [RECORD])
    tracker.publish([STEP])

    assert await tracker.messages(RUN, [0, 1, 2, 3]) == MESSAGES[:4]
    assert await tracker.records(RUN, [3]) == [RECORD]

    async def told_step() -> Step | None:
        track = await tracker.track(RUN, 3)
        return track.steps[-1] if track is not None and len(track.steps) == 2 else None

    assert await eventually(told_step) == STEP


def test_an_accepted_message_has_every_field() -> None:
    """What the gateway accepts can say all that a message can, and says it to the message and to its record."""
    fields = {field.name: value_of(field, 3) for field in msgspec.structs.fields(Message)}
    mine = {field.name for field in msgspec.structs.fields(Item)}
    item = Item(number=fields.pop("to"), **{name: value for name, value in fields.items() if name in mine})

    assert item.message(3) == message(3)
    assert item.record(RUN, 3, accepted_us=5, lane=Lane.BULK).message == message(3)


def test_every_field_can_be_posted() -> None:
    """In one message, and in a message of a batch."""
    fields = {field.name: value_of(field, 3) for field in msgspec.structs.fields(Message)}
    fields["number"] = fields.pop("to")
    one = SmsIn(**{name: value for name, value in fields.items() if name in SmsIn.__struct_fields__})
    of_batch = BatchItem(
        **{name: value for name, value in fields.items() if name in BatchItem.__struct_fields__}
    )

    assert one.item().message(3) == message(3)
    assert of_batch.message(3, NUMBER, of_batch.text) == message(3)


def test_a_provider_gets_every_field() -> None:
    """What a provider that sends one message at a time is given; the seq is in the message id."""
    outgoing = OutgoingMessage.of(message(3), RUN, attempt=2)
    for field in msgspec.structs.fields(Message):
        if field.name == "seq":
            assert outgoing.id == f"{RUN}.3"
        else:
            assert getattr(outgoing, field.name) == getattr(message(3), field.name)


@pytest.mark.parametrize(("max_attempts", "keep_failed"), [(2, False), (1, True)])
async def test_the_copies_of_a_sender_keep_every_field(max_attempts: int, keep_failed: bool) -> None:
    """For another attempt, and in the failed queue."""
    broker, ledger = MemoryBroker(), MemoryLedger()
    provider = SimulatedProvider(Profile(mean_s=0, retry=1))
    await broker.publish(batch(), Lane.BULK)
    sender = Sender(
        "s",
        broker,
        ledger,
        provider,
        slots=10,
        policy=RetryPolicy(max_attempts, backoff_s=500, keep_failed=keep_failed),
        grace_s=0,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(sender.run(stop))

    def copies() -> list[Message]:
        bodies = [body for body, _ in broker.failed] + [held.body for _, held in broker._retries.values()]
        return [one for body in bodies for one in decode_batch(body)[0].messages]

    await eventually(lambda: len(copies()) == len(MESSAGES))
    stop.set()
    await running
    await broker.close()
    assert sorted(copies(), key=lambda one: one.seq) == MESSAGES


async def test_a_replay_keeps_every_field() -> None:
    """Only the seqs are those of the new run."""
    broker, ledger = MemoryBroker(), MemoryLedger()
    seqs = np.arange(len(MESSAGES))
    await ledger.claim(RUN, seqs, redelivered=False)
    outcomes = np.full(seqs.size, Outcome.FAILED, np.uint8)
    await ledger.settle(RUN, Outcomes(seqs, outcomes, np.zeros(seqs.size, np.int64)))
    await broker.park(batch(MESSAGES[::-1]), Lane.BULK)

    def replay() -> Replay:
        selection = Selection(ParkedQueue.FAILED)
        return Replay(broker, ledger, selection, queue="sms_queue", producer="replayer")

    found = await replay().look(1)
    broker.disconnect()
    broker.subscriptions.clear()
    await replay().carry_out(found)

    (held,) = broker.queues[Lane.BULK].bodies
    repeated = decode_batch(held.body)[0].messages
    assert repeated == [msgspec.structs.replace(one, seq=seq) for seq, one in enumerate(MESSAGES[::-1])]

"""The batches that were delivered to a lane and are not acked yet, and those of their messages that wait for a slot."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common.broker.port import Delivery
from common.messages import Batch, Lane, Message, Seqs, bad_numbers, decode_batch
from sender.slots import Slots
from sender.timing import LIMITS, Limits

NONE_BAD: frozenset[int] = frozenset()


class Group(NamedTuple):
    """The properties by which messages are claimed together.

    Attributes:
        run: Their run.
        attempt: The attempt that is about to begin, from 1.
        again: Whether another sender may have claimed some of them before.
        track: Whether their steps are published.
        simulated: Whether only the simulated provider may send them.
    """

    run: str
    attempt: int
    again: bool
    track: bool
    simulated: bool = False


@dataclass(eq=False, slots=True)
class UnackedBatch:
    """A delivered batch. It is acked once all of its messages are settled.

    Attributes:
        delivery: The delivery that brought it.
        group: The properties by which its messages are claimed.
        seqs: The sequence numbers of its messages.
        bad: The seqs of the messages whose number is not E.164.
        unacked: The unacked batches of its lane, this one among them.
        came_s: When it was delivered, by the clock of the event loop.
        messages: Its messages by seq. Empty unless something reads them: the texts of a long queue would take most of
            a sender's memory.
        begun: How many of its messages, from the front, were picked to be sent.
        unsettled: How many of its messages are not settled, or settled for a retry whose copy is not confirmed.
    """

    delivery: Delivery
    group: Group
    seqs: Seqs
    bad: frozenset[int]
    unacked: "Unacked"
    came_s: float = 0.0
    messages: dict[int, Message] = field(default_factory=dict)
    begun: int = 0
    unsettled: int = field(init=False)

    def __post_init__(self) -> None:
        self.unsettled = self.seqs.size

    @property
    def run(self) -> str:
        """The run of its messages."""
        return self.group.run

    @property
    def attempt(self) -> int:
        """The attempt that its messages are in, from 1."""
        return self.group.attempt

    @property
    def waiting(self) -> int:
        """How many of its messages wait for a slot."""
        return self.seqs.size - self.begun

    def pick(self, most: int) -> "Piece":
        """Its next messages, up to `most` of them, are to be sent."""
        first = self.begun
        self.begun = min(self.seqs.size, first + most)
        return Piece(self, first, self.begun)

    def count_off(self, messages: int) -> None:
        """More of its messages are done with; the last one acks the batch."""
        self.unsettled -= messages
        if messages and self.unsettled == 0:
            self.unacked.finish(self)


class Piece(NamedTuple):
    """Messages of a batch, by position.

    Attributes:
        batch: The batch.
        first: The first position.
        beyond: The position after the last one.
    """

    batch: UnackedBatch
    first: int
    beyond: int


class Unacked:
    """The unacked deliveries of one lane, in the order in which they came.

    Messages begin and cease to wait for a slot only here, where the counters in `slots` change with them.
    `keep_messages`: batches keep their decoded messages. `keep_tracked`: tracked ones do.
    """

    def __init__(
        self,
        lane: Lane,
        slots: Slots,
        *,
        keep_messages: bool = False,
        keep_tracked: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self.lane = lane
        self.bytes = 0
        self._slots = slots
        self._keep_messages = keep_messages
        self._keep_tracked = keep_tracked
        self._limits = limits
        # An OrderedDict, since a dict whose first entries come and go takes long to find its first one.
        self._held: OrderedDict[Delivery, UnackedBatch | None] = OrderedDict()
        self._waiting: deque[UnackedBatch] = deque()
        self._decoded = 0
        self._decoded_last: tuple[UnackedBatch | None, dict[int, Message]] = (None, {})

    @property
    def deliveries(self) -> int:
        """How many deliveries are unacked, those that are being rejected included."""
        return len(self._held)

    @property
    def waiting(self) -> list[UnackedBatch]:
        """The batches of which messages wait for a slot."""
        return list(self._waiting)

    def add(self, delivery: Delivery, came_s: float = 0.0) -> UnackedBatch:
        """Decodes a delivery; its messages wait for a slot from now on.

        Raises BadBody; the delivery is unacked all the same, until `forget`.
        """
        self.drop_stale()
        self._held[delivery] = None
        self.bytes += self._size(delivery)
        decoded, seqs = decode_batch(delivery.body)
        batch = self._batch(delivery, decoded, seqs, came_s)
        self._held[delivery] = batch
        self._decoded += len(batch.messages)
        self._waiting.append(batch)
        self._slots.enqueue(self.lane, batch.waiting)
        return batch

    def drop_stale(self) -> None:
        """Forgets the deliveries of a lost connection. They come before those of the present one."""
        while self._waiting and self._waiting[0].delivery.stale:
            self._slots.dequeue(self.lane, self._waiting.popleft().waiting)
        while self._held and (oldest := next(iter(self._held))).stale:
            self.forget(oldest)

    def pick(self, room: int) -> dict[Group, list[Piece]]:
        """Takes up to `room` messages to be sent, first come first served."""
        self.drop_stale()
        groups: dict[Group, list[Piece]] = {}
        left = room
        while left and self._waiting:
            piece = self._waiting[0].pick(left)
            left -= piece.beyond - piece.first
            groups.setdefault(piece.batch.group, []).append(piece)
            if not piece.batch.waiting:
                self._waiting.popleft()
        self._slots.acquire(self.lane, room - left)
        return groups

    def take_rest(self, batch: UnackedBatch) -> list[int]:
        """The seqs of a batch that wait for a slot; they no longer do."""
        rest: list[int] = batch.seqs[batch.begun :].tolist()
        batch.begun = batch.seqs.size
        self._waiting.remove(batch)
        self._slots.dequeue(self.lane, len(rest))
        return rest

    def take_all(self) -> Iterator[tuple[UnackedBatch, list[int]]]:
        """Every batch of which messages wait for a slot, with their seqs; they no longer do."""
        self.drop_stale()
        for batch in self.waiting:
            yield batch, self.take_rest(batch)

    def messages_of(self, batch: UnackedBatch) -> dict[int, Message]:
        """The messages of a batch by seq: decoded again if it does not keep them, and then kept if there is room."""
        if batch.messages:
            return batch.messages
        last, messages = self._decoded_last
        if last is not batch:
            decoded, _ = decode_batch(batch.delivery.body)
            messages = _by_seq(decoded.messages)
            self._decoded_last = (batch, messages)
        room = self._limits.decoded_messages - self._decoded
        if len(messages) <= room and batch.delivery in self._held:
            batch.messages = messages
            self._decoded += len(messages)
        return messages

    def finish(self, batch: UnackedBatch) -> None:
        """All messages of a batch are done with: acks it, unless it comes again: it is stale, or was released."""
        held = batch.delivery in self._held
        self.forget(batch.delivery)
        if held and not batch.delivery.stale:
            batch.delivery.ack()

    def release(self, batch: UnackedBatch) -> None:
        """Hands a batch back to the broker."""
        self.forget(batch.delivery)
        if not batch.delivery.stale:
            batch.delivery.release()

    def release_all(self) -> None:
        """Hands back every batch. Its settled messages will be skipped when it comes again."""
        for batch in list(self._held.values()):
            if batch is not None:
                self.release(batch)

    def forget(self, delivery: Delivery) -> None:
        """Removes a delivery."""
        if delivery not in self._held:
            return
        batch = self._held.pop(delivery)
        self.bytes -= self._size(delivery)
        if batch is not None:
            self._decoded -= len(batch.messages)

    def _batch(self, delivery: Delivery, decoded: Batch, seqs: Seqs, came_s: float) -> UnackedBatch:
        keep = self._keep_messages or (self._keep_tracked and decoded.track)
        return UnackedBatch(
            delivery=delivery,
            group=_group(delivery, decoded),
            seqs=seqs,
            bad=_bad_seqs(decoded.messages),
            unacked=self,
            came_s=came_s,
            messages=_by_seq(decoded.messages) if keep else {},
        )

    def _size(self, delivery: Delivery) -> int:
        return len(delivery.body) + self._limits.delivery_bytes


def _group(delivery: Delivery, batch: Batch) -> Group:
    # The copy of a retry is never a duplicate either: a message that it finds sending may be the late claim of a sender
    # that lost its connection and then died.
    again = delivery.redelivered or batch.attempt > 1 or batch.again is True
    return Group(batch.run, batch.attempt, again=again, track=batch.track, simulated=batch.is_simulated)


def _bad_seqs(messages: list[Message]) -> frozenset[int]:
    positions = bad_numbers(messages)
    return frozenset(messages[k].seq for k in positions) if positions else NONE_BAD


def _by_seq(messages: list[Message]) -> dict[int, Message]:
    return {message.seq: message for message in messages}

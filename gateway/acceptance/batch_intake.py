"""Publishes a batch as a run of its own, whole; or withdraws it, so that an answer of 503 means: not sent."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.background import finish_within, retry_forever
from common.broker.port import Broker
from common.errors import RunBusy, RunExists, SmsimError, UnknownRun
from common.ledger.port import Ledger
from common.messages import Lane, Message, Seqs, State
from common.publishing.recipes import BATCHES
from common.publishing.run import Job, RunPublisher
from common.tracking.port import Record, Status, Step, Tracker
from common.web.problems import Problem
from gateway.acceptance.groups import NOT_KEPT, READY_WITHIN_S, RETRY_AFTER_S, Owing
from gateway.acceptance.listed import Listed
from gateway.acceptance.session import recipe
from gateway.api.batch_body import slices
from gateway.idempotency.hold import Hold

log = logging.getLogger(__name__)

# A publication that is not confirmed by then is withdrawn.
PUBLISH_WITHIN_S = 30.0
# Messages in one AMQP message.
BATCH_SIZE = 500


@dataclass(frozen=True, eq=False)
class BatchRun:
    """A run to be published. Where there are `callback_urls`, by seq, it must be tracked: a callback follows a step."""

    run: str
    messages: list[Message]
    lane: Lane
    track: bool
    callback_urls: Mapping[int, str] = field(default_factory=dict)
    accepted_us: int = field(default_factory=lambda: time.time_ns() // 1000)

    def records(self, messages: Sequence[Message]) -> list[Record]:
        """Those of some of its messages."""
        return [
            Record(
                run=self.run,
                message=message,
                accepted_us=self.accepted_us,
                lane=self.lane,
                callback_url=self.callback_urls.get(message.seq),
            )
            for message in messages
        ]

    def accepted_steps(self) -> list[Step]:
        """That each of its messages is accepted."""
        return [
            Step(
                run=self.run,
                message=message,
                status=Status.QUEUED,
                attempt=0,
                at_us=self.accepted_us,
            )
            for message in self.messages
        ]


class BatchIntake:
    """Takes batches in until `close`. `owing` hears of messages that have a callback before the publish, and again
    where they are withdrawn.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        tracker: Tracker,
        owing: Owing,
        gateway: str,
        queue: str | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._owing = owing
        self._gateway = gateway
        self._queue = queue
        # What is being published; and what of that no request waits for any more.
        self._publishing: set[asyncio.Task[None]] = set()
        self._given_up: set[asyncio.Task[None]] = set()

    @property
    def given_up(self) -> int:
        """Batches in hand that no request waits for any more."""
        return len(self._given_up)

    async def close(self) -> None:
        """Returns when what is being published is confirmed, or withdrawn; soon, if a server is away: then another
        gateway finishes it.
        """
        await finish_within(self._publishing)

    async def accept(self, batch: BatchRun, hold: Hold | None = None, answer: bytes = b"") -> None:
        """Publishes a run whole, or withdraws it: Problem 503. It is withdrawn too if this is cancelled meanwhile.

        With a hold on a key `answer` is planned before.
        """
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._broker.ready()
        except TimeoutError:
            raise Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S) from None
        if hold is not None:
            await hold.plan(answer)
        in_hand = _InHand(batch, hold, await self._keep(batch))
        task = asyncio.create_task(self._publish_or_withdraw(in_hand))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            in_hand.give_up()
            self._given_up.add(task)
            task.add_done_callback(self._forget)
            raise
        if batch.track:
            self._tracker.tell(batch.accepted_steps())

    async def take_back(self, run: str) -> int:
        """Withdraws the run of a gateway that died as it did so; gives how many messages senders had taken before.

        Raises RunBusy while that gateway lives.
        """
        try:
            publication = await self._ledger.publication(run)
        except UnknownRun:
            await self.rule_out(run)
            return 0
        if not 0 < publication.total <= publication.confirmed:
            await self._ledger.resume(run, self._gateway)
        await self._withdraw(run)
        states = await self._ledger.states(run, np.arange(publication.announced))
        return int(np.count_nonzero((states == State.SENDING) | (states == State.SENT)))

    async def rule_out(self, run: str) -> None:
        """Takes the name of a run that was planned and is not begun: the gateway that planned it may wake yet.

        Raises RunBusy if it just did.
        """
        try:
            await self._ledger.begin(run, recipe(BATCHES, 0, queue=self._queue), 0, self._gateway)
        except RunExists:
            raise RunBusy(f"run {run} has just begun") from None
        await self._ledger.close_run(run)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        """One that nobody waits for has ended; what came of it is in the log."""
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()

    async def _keep(self, batch: BatchRun) -> list[Record]:
        """All texts are kept before any is published, so that a run that breaks off can be finished. Gives the records
        of those messages that have a callback.
        """
        called_back: list[Record] = []
        for piece in slices(batch.messages):
            if batch.track:
                records = batch.records(piece)
                await self._tracker.open(records)
                called_back += [record for record in records if record.callback_url is not None]
            else:
                await self._tracker.keep(batch.run, piece)
            await asyncio.sleep(0)
        return called_back

    async def _publish_or_withdraw(self, in_hand: "_InHand") -> None:
        """Goes on when nobody waits any more, up to the end: whoever comes with the key must find what is true."""
        batch, hold = in_hand.batch, in_hand.hold
        try:
            async with asyncio.timeout(PUBLISH_WITHIN_S) as in_hand.deadline:
                if not in_hand.given_up:
                    await self._publish(in_hand)
            if not in_hand.given_up:
                return
        except (TimeoutError, SmsimError) as error:
            reason = str(error) or "not in time"
            log.warning("batch_not_published", extra={"run": batch.run, "reason": reason})
        finally:
            in_hand.deadline = None
        if hold is not None and not await retry_forever(hold.void):
            # This gateway slept for longer than the key was ours: who has it now may have answered that it is accepted.
            await retry_forever(lambda: self._ledger.leave(batch.run, self._gateway))
            raise Problem(503, "another gateway goes on with this: try again", retry_after_s=RETRY_AFTER_S)
        taken = set((await self._withdraw(batch.run, in_hand.may_begin)).tolist())
        rest = [record for record in in_hand.called_back if record.seq not in taken]
        await retry_forever(lambda: self._owing.withdraw(rest))
        if taken:
            if hold is not None:
                # The plan stays void, so that nobody sends those twice unawares.
                await retry_forever(hold.leave)
            what = in_part(batch.run, len(taken), len(batch.messages))
            raise Problem(503, f"the broker went away: {what}", retry_after_s=RETRY_AFTER_S)
        if hold is not None:
            await retry_forever(hold.release)
        raise Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S)

    async def _publish(self, in_hand: "_InHand") -> None:
        batch = in_hand.batch
        # Before the run begins: from then on another gateway finishes it should this one die.
        await self._owing.owe(in_hand.called_back)
        made = recipe(BATCHES, len(batch.messages), batch.lane, self._queue)
        in_hand.may_begin = True
        await self._ledger.begin(batch.run, made, len(batch.messages), self._gateway)
        source = Listed(batch.messages)
        job = Job(run=batch.run, source=source, batch_size=BATCH_SIZE, lane=batch.lane, track=batch.track)
        await RunPublisher(self._broker, self._ledger, job).publish()

    async def _withdraw(self, run: str, may_begin: bool = False) -> Seqs:
        """Ends a run where it is; gives the seqs of what could not be withdrawn. `may_begin`: Redis was asked to begin
        it and did not answer, so that it may do so yet.
        """
        try:
            announced = (await retry_forever(lambda: self._ledger.publication(run))).announced
            withdrawn = await retry_forever(lambda: self._ledger.withdraw(run, np.arange(announced)))
            await retry_forever(
                lambda: self._ledger.close_run(run)
            )  # not before: what is cut counts as published
        except UnknownRun:
            if may_begin:
                try:
                    await retry_forever(lambda: self.rule_out(run))
                except RunBusy:
                    return await self._withdraw(run)
            return np.arange(0)
        return np.flatnonzero(~withdrawn)


@dataclass(eq=False)
class _InHand:
    """A batch that is being published, with the records of those messages that have a callback."""

    batch: BatchRun
    hold: Hold | None
    called_back: list[Record]
    given_up: bool = False
    may_begin: bool = False
    deadline: asyncio.Timeout | None = None

    def give_up(self) -> None:
        """Nobody waits any more: it is published no further."""
        self.given_up = True
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(0)


def in_part(run: str, taken: int, messages: int) -> str:
    """What to tell of a run of which senders had taken some messages when it was withdrawn."""
    return (
        f"{taken} of {messages} messages of run {run} were taken by senders before, the others will not be sent:"
        f" see GET /runs/{run}, then send those again that you miss, with another Idempotency-Key if with any"
    )

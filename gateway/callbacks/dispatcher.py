"""Delivers callbacks: once a message is sent or failed, the address that was left with it is told, at least once.

A step that the tracker tells makes for a look at the message at once; steps may be missed, so everything owed is looked
at from time to time as well. Either way the ledger alone says how the message ended. What one gateway looks at is
leased to it, so that several on one Redis don't tell the same; when it dies, the lease passes, and another goes on.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from yarl import URL

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.tracking.port import Status, Tracker
from common.tracking.statuses import statuses_of
from gateway.callbacks.address import is_public, url_error
from gateway.callbacks.port import Callbacks, Ending, Owed
from gateway.callbacks.posting import TIME_LIMIT_S, Answer, Poster
from gateway.callbacks.turns import MOST_UNDER_WAY, Standing, Turn, Turns

log = logging.getLogger(__name__)

# What waits in this process for its turn, or is under way; of one host, see `Standing`.
MOST_HELD = 16_384
# Ids of messages whose end is listened for. What is beyond waits for a look.
MOST_AWAITED = 100_000
CHUNK = 256

LOOK_EVERY_S = 1.0
SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
LEASE_S = 60.0
# A lease that is nearly over is given back rather than begun on: another would deliver at the same time.
SHORTEST_LEASE_S = TIME_LIMIT_S + 5.0
# Owing and the announcement of a run go on at the same time: a young one may be unknown yet.
UNKNOWN_FOR_S = 60.0

# 8 tries in about 68 minutes: after 10 s, 25 s, 63 s, …, 41 min.
TRIES = 8
FIRST_PAUSE_S = 10.0
PAUSE_GROWS = 2.5

LAST_WORDS_S = 1.0
_ENDED = {Status.SENT, Status.FAILED, Status.CANCELED}


class Dispatcher:
    """Owes callbacks and delivers them. No `secret`: callbacks are off."""

    def __init__(
        self,
        callbacks: Callbacks,
        tracker: Tracker,
        ledger: Ledger,
        secret: str | None,
        allow_private: bool,
    ) -> None:
        self._callbacks = callbacks
        self._tracker = tracker
        self._ledger = ledger
        self._secret = secret
        self._allow_private = allow_private
        self._awaited: dict[str, None] = {}
        self._heard: dict[str, Ending] = {}
        self._held: dict[str, Owed] = {}
        self._turns = Turns()
        self._some = asyncio.Event()

    def url_error(self, url: str) -> str | None:
        """What is wrong with a callback URL, as far as its text tells; None for nothing."""
        if self._secret is None:
            return "callbacks are off: set CALLBACK_SECRET"
        return url_error(url, self._allow_private)

    def expect(self, uuids: Sequence[str]) -> None:
        """The callbacks of these messages are owed: their ends are listened for."""
        self._awaited.update((uuid, None) for uuid in uuids)
        while len(self._awaited) > MOST_AWAITED:
            del self._awaited[next(iter(self._awaited))]

    async def run(self) -> None:
        """Delivers until cancelled. What was begun then and not finished is due again at once."""
        if self._secret is None:
            await asyncio.Event().wait()
            return
        # What an earlier run had in hand and could not finish, it gave back.
        self._held.clear()
        self._turns = Turns()
        try:
            allows = (lambda _: True) if self._allow_private else is_public
            async with Poster(self._secret, MOST_UNDER_WAY, allows) as poster, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                await self._look_forever(poster, tasks)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._callbacks.put_off([(owed, 0.0) for owed in self._held.values()])

    async def _listen(self) -> None:
        """Notes which of the messages that this gateway took in have ended."""
        async for steps in self._tracker.listen():
            for step in steps if self._awaited else ():
                if step.status in _ENDED and step.uuid in self._awaited:
                    del self._awaited[step.uuid]
                    self._heard[step.uuid] = Ending(step.status, step.attempt, step.at_us)
                    if len(self._heard) > MOST_AWAITED:  # it is found when it is due
                        del self._heard[next(iter(self._heard))]
            if self._heard:
                self._some.set()

    async def _look_forever(self, poster: Poster, tasks: asyncio.TaskGroup) -> None:
        clock = asyncio.get_running_loop().time
        next_due_s = clock()
        while True:
            self._some.clear()
            uuids: list[str] = []
            if MOST_HELD - len(self._held) >= 2 * CHUNK:
                uuids = list(self._heard)[:CHUNK]
                if clock() >= next_due_s:
                    due = await self._callbacks.due(CHUNK)
                    next_due_s = clock() + (LOOK_EVERY_S if len(due) < CHUNK else 0)
                    uuids += due
            if uuids:
                await self._look(list(dict.fromkeys(uuids)), poster, tasks)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.05, next_due_s - clock())):
                        await self._some.wait()

    async def _look(self, uuids: list[str], poster: Poster, tasks: asyncio.TaskGroup) -> None:
        """Takes callbacks, begins the deliveries of ended messages, and puts off the others."""
        heard = {uuid: self._heard.pop(uuid) for uuid in uuids if uuid in self._heard}
        ends_s = asyncio.get_running_loop().time() + LEASE_S
        taken = await self._callbacks.take(uuids, LEASE_S)
        statuses = await self._statuses([owed for owed in taken if owed.ending is None])
        later: list[tuple[Owed, float]] = []
        hopeless: list[str] = []
        for owed in taken:
            status = owed.ending.status if owed.ending else statuses.get(owed.uuid)
            if status not in _ENDED:
                longest_s = UNKNOWN_FOR_S if status is None else self._callbacks.ttl_s
                if owed.age_s > longest_s:
                    hopeless.append(owed.uuid)
                    continue
            elif (turn := self._turns.join(_host_of(owed))) is not None:
                self._held[owed.uuid] = owed
                self._awaited.pop(owed.uuid, None)
                tasks.create_task(self._deliver(owed, turn, status, heard.get(owed.uuid), ends_s, poster))
                continue
            elif self._turns.standing(_host_of(owed)) is Standing.NEW:
                # There is more room for it as soon as it has answered.
                later.append((owed, _pause_s(0)))
                continue
            later.append((owed, _pause_s(owed.age_s)))
        if hopeless:
            log.warning(
                "callbacks_dropped", extra={"count": len(hopeless), "reason": "never sent nor failed"}
            )
        await self._callbacks.put_off(later)
        await self._callbacks.drop(hopeless)

    async def _statuses(self, taken: Sequence[Owed]) -> dict[str, Status]:
        """The status of each message, by its id; none for those whose run is unknown."""
        by_run: dict[str, list[Owed]] = {}
        for owed in taken:
            by_run.setdefault(owed.run, []).append(owed)
        found: dict[str, Status] = {}

        async def ask(run: str, messages: list[Owed]) -> None:
            with suppress(UnknownRun):
                statuses = await statuses_of(self._ledger, run, [owed.seq for owed in messages])
                found.update(zip([owed.uuid for owed in messages], statuses, strict=True))

        await asyncio.gather(*(ask(run, messages) for run, messages in by_run.items()))
        return found

    async def _deliver(
        self, owed: Owed, turn: Turn, status: Status, heard: Ending | None, ends_s: float, poster: Poster
    ) -> None:
        """Waits for its turn and tries once. If cancelled, it stays among those held, to be given back."""
        if not await turn.comes():
            await self._callbacks.put_off([(owed, _pause_s(owed.age_s))])
        elif asyncio.get_running_loop().time() > ends_s - SHORTEST_LEASE_S:
            turn.end(None)
            await self._callbacks.put_off([(owed, 0.0)])
        else:
            try:
                await self._conclude(owed, *await self._try(owed, turn, status, heard, poster))
            except Exception as error:  # noqa: BLE001  # one message must not end the deliveries of all others
                log.error("callback_failed", extra={"uuid": owed.uuid, "reason": type(error).__name__})
                await self._callbacks.put_off([(owed, LONGEST_PAUSE_S)])
        self._held.pop(owed.uuid, None)
        if len(self._held) == MOST_HELD - 2 * CHUNK:
            self._some.set()

    async def _try(
        self, owed: Owed, turn: Turn, status: Status, heard: Ending | None, poster: Poster
    ) -> tuple[Ending, Answer, str]:
        """Tries once. The turn is over with the answer: what Redis takes to note it says nothing of the host."""
        answer = None
        try:
            ending = owed.ending or await self._ending(owed, status, heard)
            answer, why = await poster.post(owed, ending)
            return ending, answer, why
        finally:
            turn.end(None if answer is None else answer is not Answer.FAILED)

    async def _ending(self, owed: Owed, status: Status, heard: Ending | None) -> Ending:
        """How a message ended: what was heard, if the ledger agrees, else what the tracker has kept."""
        if heard is not None and heard.status is status:
            return heard
        track = await self._tracker.track(owed.run, owed.seq)
        steps = track.steps if track else []
        attempts = max((step.attempt for step in steps), default=0)
        at_us = max((step.at_us for step in steps if step.status is status), default=None)
        # Sent by no attempt there is not: that step was lost.
        return Ending(status, max(attempts, 1 if status is Status.SENT else 0), at_us)

    async def _conclude(self, owed: Owed, ending: Ending, answer: Answer, why: str) -> None:
        tries = owed.tries + 1
        if answer is Answer.FAILED and tries < TRIES:
            pause_s = FIRST_PAUSE_S * PAUSE_GROWS**owed.tries * random.uniform(0.8, 1.2)
            await self._callbacks.put_off(
                [(msgspec.structs.replace(owed, tries=tries, ending=ending), pause_s)]
            )
            return
        if answer is not Answer.DELIVERED:
            # The host alone: path and query of a URL may hold what is secret.
            about = {"uuid": owed.uuid, "host": _host_of(owed), "tries": tries, "reason": why}
            log.warning("callback_given_up", extra=about)
        await self._callbacks.drop([owed.uuid])


def _host_of(owed: Owed) -> str:
    # Not `host`: that decodes xn--…, and raises for what is no valid name.
    return URL(owed.url).raw_host or ""


def _pause_s(age_s: float) -> float:
    """Until the next look at what is not ready: longer and longer, and spread out."""
    return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, age_s / 2)) * random.uniform(0.8, 1.2)

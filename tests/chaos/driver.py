"""Plays one run of the suite: publishes the load, applies the fault, and audits the result."""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.chaos.audit import Books, compare, not_kept
from tests.chaos.faults import Fault
from tests.chaos.plan import Plan, make_plan
from tests.chaos.stage import LOOK_S, Stage
from tests.servers import Server
from tests.waiting import eventually

RECOVERY_DEADLINE_S = 240.0
REST_DEADLINE_S = 60.0
TROUBLES_TOLD = 10

S = TypeVar("S", bound=Server)


class Grounds:
    """The servers of the runs. Each kind starts when first requested; all end on exit."""

    def __init__(self) -> None:
        self._servers: dict[type[Server], Server] = {}
        self._open = ExitStack()

    def server(self, kind: type[S]) -> S:
        """The running server of this kind. Raises the error that prevents its start."""
        server = self._servers.get(kind)
        if server is None:
            server = self._servers[kind] = self._open.enter_context(kind())  # type: ignore[call-arg]  # each makes its own
        server.start()
        assert isinstance(server, kind)
        return server

    def __enter__(self) -> "Grounds":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


async def play(kind: type[Fault], seed: int, messages: int, grounds: Grounds, folder: Path) -> dict[str, Any]:
    """Plays one run of a fault. Returns its load, its outcome, and every violation (`troubles`)."""
    plan = make_plan(kind.name, seed, messages, kind.wishes)
    rabbit = await asyncio.to_thread(grounds.server, kind.rabbit)
    redis = await asyncio.to_thread(grounds.server, kind.redis)
    stage = Stage(folder, rabbit, redis, plan, f"chaos-{secrets.token_hex(4)}")
    run = _Run(kind(stage, Random(f"strikes of {kind.name} {seed}")), stage, plan)
    try:
        return await run.play()
    finally:
        for server in (rabbit, redis):
            await asyncio.to_thread(server.start)
        await stage.shut()


class _Run:
    """One run in progress."""

    def __init__(self, fault: Fault, stage: Stage, plan: Plan) -> None:
        self._fault = fault
        self._stage = stage
        self._plan = plan
        self._recoveries: list[float] = []
        self._strikes = 0
        self._over = asyncio.Event()

    async def play(self) -> dict[str, Any]:
        if self._fault.proxied:
            await self._stage.through_proxies()
        self._fault.prepare()
        await self._stage.open()
        await asyncio.to_thread(self._stage.rabbit.sync_queues)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._plan.deadline_s):
                await self._flow()
        except TimeoutError as error:
            self._stage.troubles.append(f"not over after {time.monotonic() - began:.0f} s: {error}")
        elapsed_s = time.monotonic() - began
        await self._stage.stop_senders()
        result = await self._audit(elapsed_s)
        await self._fault.epilogue()
        return {**result, "notes": self._stage.notes, "troubles": _told(self._stage.troubles)}

    async def _flow(self) -> None:
        """Applies all strikes. Returns when every message is published and settled and everything is at rest."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._stage.watch())
            striking = tasks.create_task(self._strike_all())
            await self._stage.publish()
            while (await self._stage.settled_now()) < self._plan.messages:
                await asyncio.sleep(LOOK_S)
            self._over.set()
            await striking
            await eventually(self._stage.at_rest, REST_DEADLINE_S, "queues and senders are empty")
            watching.cancel()

    async def _strike_all(self) -> None:
        for strike in self._plan.strikes:
            if not await self._unless_over(self._moment(strike.at_share)):
                return
            await self._strike(strike.hold_s)

    async def _strike(self, hold_s: float) -> None:
        self._strikes += 1
        await self._fault.begin()
        try:
            await self._fault.hold(hold_s)
        finally:
            await self._fault.end()
        try:
            async with asyncio.timeout(RECOVERY_DEADLINE_S):
                recovery_s = await self._fault.recover()
        except TimeoutError:
            self._stage.troubles.append(f"no recovery within {RECOVERY_DEADLINE_S:g} s")
        else:
            if recovery_s is not None:
                self._recoveries.append(round(recovery_s, 3))

    async def _moment(self, share: float) -> None:
        while (await self._stage.settled_now()) < share * self._plan.messages:
            await asyncio.sleep(LOOK_S)
        await self._fault.wait_for_moment()

    async def _unless_over(self, wait: Coroutine[Any, Any, None]) -> bool:
        """Waits; whether that ended before everything was settled."""
        waiting, over = asyncio.create_task(wait), asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and waiting.result() is None
        finally:
            for task in (waiting, over):
                task.cancel()

    async def _audit(self, elapsed_s: float) -> dict[str, Any]:
        stage, plan = self._stage, self._plan
        books = await stage.look()
        if books is None:
            raise RuntimeError("Redis is away, though nothing is done to it")
        stats = books.stats
        found = {
            name: stats[name] for name in ("published", "sent", "failed", "retried", "ambiguous", "rejected")
        }
        recorded = await asyncio.to_thread(compare, books, stage.record)
        lost = recorded.never_sent + plan.messages - books.settled
        self._check(books, lost, recorded.surplus)
        await self._ask_smsim_audit()
        await asyncio.to_thread(self._check_queues, books)
        return {
            "fault": self._fault.name,
            "description": self._fault.description,
            "seed": plan.seed,
            "messages": plan.messages,
            "batch_size": plan.batch_size,
            "senders": plan.senders,
            "slots": plan.slots,
            "max_attempts": plan.max_attempts,
            "keep_failed": plan.keep_failed,
            "strikes": self._strikes,
            **found,
            "lost": lost,
            "counted_twice": _counted_twice(books),
            "sent_twice": recorded.sent_twice,
            "surplus_sends": recorded.surplus,
            "never_over": recorded.sent_twice <= stats["ambiguous"],
            "recovery_s": self._recoveries,
            "elapsed_s": round(elapsed_s, 1),
            "polls": stage.polls,
        }

    def _check(self, books: Books, lost: int, surplus: int) -> None:
        """Checks the invariants at the end of the run."""
        stats, total = books.stats, self._plan.messages
        poison = len(self._stage.poison)
        rules: list[tuple[bool, str]] = [
            (stats["published"] == total, f"{stats['published']} of {total} are published"),
            (books.settled == total and not stats["sending"], f"{books.settled} of {total} are settled"),
            (lost == 0, f"{lost} are lost"),
            (
                surplus <= stats["ambiguous"],
                f"{surplus} sends too many, only {stats['ambiguous']} are ambiguous",
            ),
            (stats["rejected"] >= poison, f"{stats['rejected']} of {poison} poison bodies are counted"),
            (self._strikes > 0, "the fault never struck"),
        ]
        self._stage.troubles += [trouble for holds, trouble in rules if not holds]

    async def _ask_smsim_audit(self) -> None:
        """Checks that the product's own audit agrees."""
        audit = self._stage.start("smsim", "audit", "--json")
        if await audit.ended() != 0:
            self._stage.troubles.append(f"smsim audit: {(audit.stderr or audit.stdout)[-500:]}")

    def _check_queues(self, books: Books) -> None:
        rejected = set(self._stage.take_all(self._stage.topology.rejected))
        if rejected != self._stage.poison:
            missing, strange = self._stage.poison - rejected, rejected - self._stage.poison
            self._stage.troubles.append(
                f"rejected: {len(missing)} poison bodies missing, {len(strange)} others"
            )
        failed = self._stage.take_all(self._stage.topology.failed)
        if self._plan.keep_failed and (missing_copies := not_kept(books, failed)):
            self._stage.troubles.append(f"{missing_copies} failed messages are not kept in the failed queue")
        left = {name: depth for name, depth in self._stage.depths().items() if depth}
        if left:
            self._stage.troubles.append(f"in the queues at the end: {left}")


def _counted_twice(books: Books) -> int:
    """By how many the counters exceed the number of messages in those states."""
    counted = sum(int((states >= 2).sum()) for states in books.states.values())
    return books.settled - counted


def _told(troubles: list[str]) -> list[str]:
    """The distinct troubles, limited to a few."""
    each = list(dict.fromkeys(troubles))
    more = [f"... and {len(each) - TROUBLES_TOLD} more"] if len(each) > TROUBLES_TOLD else []
    return each[:TROUBLES_TOLD] + more

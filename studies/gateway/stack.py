"""The gateway under load: it, a sender and what it is compared with, as processes; and whether all adds up."""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from common.ledger.redis import RedisLedger
from studies.process import BenchmarkFailed, Launched
from studies.runs import queue_names
from studies.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
QUEUE = "gateway-load"
# Enough slots that none is waited for, and a send time that is small beside what else a message takes.
SENDING = {"MEAN_PROCESSING_TIME": "0.05", "FAILURE_RATE": "0.1", "SENDER_CONCURRENCY": "20000"}
PATIENCE_S = 60.0
LOOK_S = 0.05


class Stack:
    """What runs. `gateway`, `bare` and `wrapped` are URLs; `processes` are by name, for a meter; `key` opens all."""

    def __init__(
        self, servers: Servers, ledger: RedisLedger, launched: dict[str, Launched], key: str
    ) -> None:
        self.servers = servers
        self.key = key
        self.processes = {name: one.process for name, one in launched.items() if name != "bare"}
        self.processes |= servers.processes
        self.gateway, self.bare, self.wrapped = (
            f"http://127.0.0.1:{launched[process].said(port)}"
            for process, port in (("gateway", "port"), ("bare", "bare"), ("bare", "wrapped"))
        )
        self._ledger = ledger
        self._launched = launched

    @classmethod
    @asynccontextmanager
    async def started(cls, servers: Servers, ledger: RedisLedger, folder: Path) -> AsyncIterator[Self]:
        """All of it, until left. Raises BenchmarkFailed."""
        key = secrets.token_hex(16)
        settings = {**servers.settings, **SENDING, "QUEUE_NAME": QUEUE, "GATEWAY_API_KEY": key}
        smsim = str(Path(sys.executable).with_name("smsim"))
        commands = {
            "gateway": [smsim, "gateway", "--host", "127.0.0.1", "--port", "0"],
            "sender": [sys.executable, str(ROOT / "sender.py")],
            "bare": [sys.executable, "-m", "studies.gateway.bare", key],
        }
        with contextlib.ExitStack() as running:
            launched = {
                name: running.enter_context(
                    Launched(command, settings | {"PYTHONPATH": str(ROOT)}, folder / name, name)
                )
                for name, command in commands.items()
            }
            deadline = time.monotonic() + PATIENCE_S
            while not (
                launched["gateway"].said("port")
                and launched["bare"].said("bare")
                and (await ledger.snapshot()).senders
            ):
                await _look(deadline, "the processes don't start", launched.values())
            yield cls(servers, ledger, launched, key)
            for one in launched.values():
                one.stop()

    async def accepted(self) -> int:
        """How many messages the gateway says it has answered 202; it has answered all that it was asked."""
        url = f"{self.gateway}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url, headers=self.headers) as answer:
            families = list(text_string_to_metric_families(await answer.text()))
        values = {sample.name: 0.0 for family in families for sample in family.samples}
        for sample in (sample for family in families for sample in family.samples):
            values[sample.name] += sample.value
        return int(values["smsim_gateway_messages_accepted_total"])

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request."""
        return {"Authorization": f"Bearer {self.key}"}

    async def settled(self) -> int:
        """How many messages are published, once all of them are sent or failed. Raises BenchmarkFailed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now = await self._ledger.snapshot()
            # In this order: what is accepted after the snapshot would make them differ.
            if now.published == now.settled == await self.accepted():
                return now.published
            await _look(deadline, f"not all is settled in time: {now}", self._launched.values())

    async def audit(self, run: str, messages: int) -> None:
        """Raises BenchmarkFailed unless each of a run's messages is sent or failed, counted one by one."""
        now, counted = await self._ledger.snapshot(run), await self._ledger.recount(run)
        proven = counted == {name: getattr(now, name) for name in ("published", "sending", "sent", "failed")}
        if not (proven and now.published == now.settled == messages):
            raise BenchmarkFailed(f"run {run} of {messages} does not add up: {now}, recount {counted}")

    async def audit_all(self) -> int:
        """The same of every run there is, and of the queues; gives how many messages there were."""
        total = 0
        for run in await self._ledger.runs():
            published = (await self._ledger.snapshot(run)).published
            await self.audit(run, published)
            total += published
        if waiting := self.servers.waiting(*queue_names(QUEUE)):
            raise BenchmarkFailed(f"{waiting} bodies are left in the queues")
        return total


async def _look(deadline: float, what: str, watched: Iterable[Launched]) -> None:
    """A pause. Raises BenchmarkFailed if a process has ended, or the time is over."""
    for one in watched:
        if one.over:
            raise one.failed("ended before its time")
    if time.monotonic() > deadline:
        raise BenchmarkFailed(what)
    await asyncio.sleep(LOOK_S)

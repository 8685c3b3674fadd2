"""The gateway under load: the processes, and whether everything adds up."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from studies import runs
from studies.process import Process, StudyFailed, until
from studies.servers import Pipeline, Servers

# Enough slots that none is waited for, and a send time that is small beside the rest of a message's way.
SENDING = {"MEAN_PROCESSING_TIME": "0.05", "FAILURE_RATE": "0.1", "SENDER_CONCURRENCY": "20000"}
EVERY_S = 0.05


class Stack:
    """A gateway and a sender, and the bare routes that the gateway is compared with.

    Attributes:
        key: An API key for everything.
        pids: The processes by name, for a meter.
        gateway: The gateway's URL.
        bare: The URL of a route that does nothing.
        wrapped: The URL of such a route with what the gateway has around each operation.
    """

    def __init__(self, servers: Servers, pipeline: Pipeline, processes: dict[str, Process], key: str) -> None:
        self.key = key
        self.pids = {name: process.pid for name, process in processes.items() if name != "bare"}
        self.pids |= servers.pids
        self.gateway = _url(processes["gateway"].reported("port"))
        self.bare = _url(processes["bare"].reported("bare"))
        self.wrapped = _url(processes["bare"].reported("wrapped"))
        self._ledger = servers.ledger
        self._pipeline = pipeline
        self._processes = processes.values()

    @classmethod
    @asynccontextmanager
    async def started(cls, servers: Servers) -> AsyncIterator[Self]:
        """Starts all processes, and ends them on exit. Raises StudyFailed."""
        key = secrets.token_hex(16)
        pipeline = servers.pipeline("gateway", **SENDING, gateway_api_key=key)
        with contextlib.ExitStack() as running:
            processes = {
                process.name: running.enter_context(process) for process in _processes(pipeline, key)
            }

            async def serving() -> bool:
                ports = [processes["gateway"].reported("port"), processes["bare"].reported("bare")]
                return all(ports) and bool((await servers.ledger.snapshot()).senders)

            await until(serving, *processes.values(), what="the gateway serves", every_s=EVERY_S)
            yield cls(servers, pipeline, processes, key)
            for process in processes.values():
                process.end()

    async def accepted(self) -> int:
        """How many messages the gateway has accepted, by its own count."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.gateway}/metrics", headers=headers) as answer,
        ):
            families = list(text_string_to_metric_families(await answer.text()))
        name = "smsim_gateway_messages_accepted_total"
        samples = (sample for family in families for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name == name))

    async def settled(self) -> int:
        """How many messages are published, once each of them is sent or failed. Raises StudyFailed."""

        async def all_settled() -> bool:
            now = await self._ledger.snapshot()
            # In this order: a message accepted after the snapshot makes them differ.
            return now.published == now.settled == await self.accepted()

        await until(all_settled, *self._processes, what="all messages are settled", every_s=EVERY_S)
        return (await self._ledger.snapshot()).published

    async def audit(self, run: str, messages: int) -> None:
        """Raises StudyFailed unless the run adds up."""
        await runs.audit(self._ledger, run, messages)

    async def audit_all(self) -> int:
        """The same of every run, and of the queues; returns how many messages there were."""
        total = 0
        for run in await self._ledger.runs():
            published = (await self._ledger.snapshot(run)).published
            await self.audit(run, published)
            total += published
        if waiting := self._pipeline.waiting():
            raise StudyFailed(f"{waiting} bodies are left in the queues")
        return total


def _processes(pipeline: Pipeline, key: str) -> Iterator[Process]:
    yield pipeline.process("gateway", "-m", "simulation.cli", "gateway", "--host", "127.0.0.1", "--port", 0)
    yield pipeline.sender()
    yield pipeline.process("bare", "-m", "studies.gateway.bare", key)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"

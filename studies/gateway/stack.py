"""The gateway under load: the processes, and whether everything adds up."""

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from studies import runs
from studies.process import Process, StudyFailed, until
from studies.servers import Pipeline, Servers
from tests.runners import free_port

# Enough slots that none is waited for, and a send time that is small beside the rest of a message's way.
SENDING = {"MEAN_PROCESSING_TIME": "0.05", "FAILURE_RATE": "0.1", "SENDER_CONCURRENCY": "20000"}


class Stack:
    """A gateway and a sender, and the bare route that the gateway is compared with.

    Attributes:
        key: An API key for everything.
        ledger: The ledger.
        pids: The processes by name, for a meter.
        gateway: The gateway's URL.
        bare: The URL of a route that does nothing.
    """

    def __init__(
        self, servers: Servers, pipeline: Pipeline, processes: dict[str, Process], *, key: str, bare_port: int
    ) -> None:
        self.key = key
        self.pids = {name: process.pid for name, process in processes.items() if name != "bare"}
        self.pids |= servers.pids
        self.gateway = _url(processes["gateway"].reported("port"))
        self.bare = _url(bare_port)
        self.ledger = servers.ledger
        self._pipeline = pipeline
        self._processes = processes.values()

    @classmethod
    @asynccontextmanager
    async def started(cls, servers: Servers) -> AsyncIterator[Self]:
        """Starts all processes, and ends them on exit. Raises StudyFailed."""
        key, bare_port = secrets.token_hex(16), free_port()
        pipeline = servers.pipeline("gateway", **SENDING, gateway_api_key=key)
        with _processes(pipeline, bare_port) as processes:

            async def serving() -> bool:
                ready = processes["gateway"].reported("port") and _listens(bare_port)
                return bool(ready and (await servers.ledger.snapshot()).senders)

            await until(serving, *processes.values(), what="the gateway serves")
            yield cls(servers, pipeline, processes, key=key, bare_port=bare_port)
            for name, process in processes.items():
                process.stop()
                if name == "bare":
                    process.code()  # uvicorn's command ends by the signal itself
                else:
                    process.check()

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
            now = await self.ledger.snapshot()
            # In this order: a message accepted after the snapshot makes them differ.
            return now.published == now.settled == await self.accepted()

        await until(all_settled, *self._processes, what="all messages are settled")
        return (await self.ledger.snapshot()).published

    async def audit_all(self) -> int:
        """Raises StudyFailed unless every run adds up and the queues are empty. Returns the number of messages."""
        total = 0
        for run in await self.ledger.runs():
            published = (await self.ledger.snapshot(run)).published
            await runs.audit(self.ledger, run, published)
            total += published
        if waiting := self._pipeline.waiting():
            raise StudyFailed(f"{waiting} bodies are left in the queues")
        return total


@contextlib.contextmanager
def _processes(pipeline: Pipeline, bare_port: int) -> Iterator[dict[str, Process]]:
    gateway = ["-m", "simulation.cli", "gateway", "--host", "127.0.0.1", "--port", 0]
    bare = ["-m", "uvicorn", "studies.gateway.bare:app", "--no-access-log", "--port", bare_port]
    with (
        pipeline.process("gateway", *gateway) as first,
        pipeline.sender() as second,
        pipeline.process("bare", *bare) as third,
    ):
        yield {"gateway": first, "sender": second, "bare": third}


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"

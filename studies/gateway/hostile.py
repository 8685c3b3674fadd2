"""What hostile clients can do to a gateway: `python -m studies.gateway.hostile`.

Runs `smsim serve`, honest clients at a steady rate, and one attack after the other (studies/gateway/attacks.py). Prints
for each attack how long `GET /health` took, the largest resident memory, the share of the honest clients' messages that
was accepted, and the lines that came to the log.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import psutil

from common.cli import EXIT_DONE, Parser, number, run_command
from studies.gateway.attacks import ATTACKS
from studies.process import Process, until
from tests.runners import free_port

NOTHING = "nothing"
MESSAGE = {"number": "+541166587382", "text": "hello"}


@dataclass
class Seen:
    """What one attack came to.

    Attributes:
        health_s: How long each `GET /health` took, on a new connection.
        rss_bytes: The largest resident memory.
        sent, accepted: Messages that honest clients sent, and those that were accepted within a second.
        log_lines: Lines in the gateway's log.
    """

    health_s: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    sent: int = 0
    accepted: int = 0
    log_lines: int = 0

    def row(self, name: str) -> str:
        """The row of a Markdown table."""
        times = sorted(self.health_s)
        middle, worst = (times[round(share * (len(times) - 1))] * 1000 for share in (0.5, 1))
        accepted = self.accepted / max(1, self.sent)
        return (
            f"| {name.replace('_', ' ')} | {middle:.0f} | {worst:.0f} | {self.rss_bytes / 2**20:.0f} |"
            f" {accepted:.1%} | {self.log_lines} |"
        )


HEADING = (
    "| attack | health p50, ms | health max, ms | RSS max, MiB | honest accepted | log lines |\n"
    "|---|--:|--:|--:|--:|--:|"
)


class Honest:
    """Clients that send messages at a steady rate, and look at GET /health on new connections."""

    def __init__(self, url: str, key: str, rate_per_s: float, process: psutil.Process, log: Process) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._rate_per_s = rate_per_s
        self._process = process
        self._log = log

    async def watch(self, seconds: float) -> Seen:
        """Everything that is seen in some seconds."""
        seen, before = Seen(), len(self._log.log_lines)
        parts = (self._send, self._look, self._measure)
        tasks = [asyncio.create_task(part(seen)) for part in parts]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        seen.log_lines = len(self._log.log_lines) - before
        return seen

    async def _send(self, seen: Seen) -> None:
        limit = aiohttp.ClientTimeout(total=1)
        async with aiohttp.ClientSession(self._url, headers=self._headers, timeout=limit) as http:

            async def send() -> None:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.post("/sms", json=MESSAGE) as answer:
                        seen.accepted += answer.status == 202

            async with asyncio.TaskGroup() as sending:
                began_s = time.perf_counter()
                while True:
                    due = int((time.perf_counter() - began_s) * self._rate_per_s)
                    for _ in range(due - seen.sent):
                        seen.sent += 1
                        sending.create_task(send())
                    await asyncio.sleep(0.01)

    async def _look(self, seen: Seen) -> None:
        while True:
            began_s = time.perf_counter()
            await _health(self._url)
            seen.health_s.append(time.perf_counter() - began_s)
            await asyncio.sleep(0.02)

    async def _measure(self, seen: Seen) -> None:
        while True:
            seen.rss_bytes = max(seen.rss_bytes, self._process.memory_info().rss)
            await asyncio.sleep(0.05)


async def _health(url: str) -> None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
            http.get(f"{url}/health") as answer,
        ):
            await answer.read()


@contextlib.asynccontextmanager
async def _gateway(port: int, key: str) -> AsyncIterator[Process]:
    """A stand-in with some messages in its inbox."""
    env = {"GATEWAY_AUTH": "true", "GATEWAY_API_KEY": key, "LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "simulation.cli", "serve", "--port", str(port)]
    with Process("gateway", command, env=env) as process:

        async def serves() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return True
            return False

        await until(serves, process, what="the gateway serves")
        await _fill_inbox(f"http://127.0.0.1:{port}", key)
        yield process
        process.stop()


async def _fill_inbox(url: str, key: str) -> None:
    items = [{"number": MESSAGE["number"], "text": "x" * 1_600}] * 10_000
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(url, headers=headers) as http,
        http.post("/sms/batch", data=json.dumps(items)) as answer,
    ):
        answer.raise_for_status()
    await asyncio.sleep(2)


async def _run(args: argparse.Namespace) -> int:
    print(HEADING, flush=True)
    for name in args.attack or [NOTHING, *ATTACKS]:
        key, port = secrets.token_hex(16), free_port()
        async with _gateway(port, key) as process:
            honest = Honest(f"http://127.0.0.1:{port}", key, args.rate, psutil.Process(process.pid), process)
            attack = [sys.executable, "-m", "studies.gateway.attacks", name, str(port), key]
            with contextlib.ExitStack() as stack:
                if name != NOTHING:
                    stack.enter_context(Process(name, attack))
                seen = await honest.watch(args.seconds)
            print(seen.row(name), flush=True)
            if args.show_log:
                print("\n".join(line[-900:] for line in process.log_lines[-5:]))
    return EXIT_DONE


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.gateway.hostile", "Measures a gateway under attack.")
    parser.add_argument("--seconds", type=number(1, 3600), default=20.0, help="how long an attack lasts")
    parser.add_argument("--rate", type=number(1, 10_000), default=100.0, help="honest messages a second")
    parser.add_argument("--attack", action="append", choices=[NOTHING, *ATTACKS], help="only this one")
    parser.add_argument("--show-log", action="store_true", help="prints the end of the gateway's log")
    args = parser.parse_args()
    return run_command(parser.prog, lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())

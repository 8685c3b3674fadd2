"""What the gateway carries: `make bench-gateway`, `python -m studies.gateway`.

Starts RabbitMQ, Redis, a gateway and a sender of its own. wrk posts single messages at several numbers of connections,
and beside that, in the same rounds, to a route of the same framework that does nothing; batches of several sizes go in
as a JSON array and as NDJSON; at last messages are asked for. What was accepted must be published, and sent or failed,
to the last message, else there are no figures. Writes JSON, and prints tables.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from common.cli import EXIT_DONE, Parser, number, whole
from common.ledger.redis import RedisLedger
from studies.command import measured_into
from studies.gateway import load
from studies.gateway.figures import GET, POST, Figures
from studies.gateway.stack import SENDING, Stack
from studies.gateway.table import markdown
from studies.meter import Meter
from studies.process import BenchmarkFailed
from studies.record import PACKAGES, machine, versions
from studies.servers import Servers
from tests.servers import RabbitServer, RedisServer

LATEST = Path(__file__).resolve().parents[1] / "results" / "gateway.json"
CONNECTIONS = (16, 64, 256)
SECONDS = 3
# How many requests with so many messages each.
BATCHES = {1_000: 80, 10_000: 16, 100_000: 4}
AT_ONCE = 2
# wrk sends these in turn; and these messages it asks for.
DIFFERENT = 1_000


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.gateway", "Measures the gateway under load, beside a route that does nothing.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument("--scale", type=number(0.01, 10), default=1.0, help="multiplies times and batches")
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    args = parser.parse_args()
    results = measured_into(args.out, parser.prog, _measure(args))
    print(markdown(results))
    return EXIT_DONE


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    wrk = load.wrk_version()
    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
        try:
            async with Stack.started(Servers(rabbit, redis), ledger, Path(folder)) as stack:
                bench = _Bench(stack, Path(folder), args.scale)
                await bench.warm_up()
                for done in range(args.rounds):
                    print(f"round {done + 1} of {args.rounds}", file=sys.stderr, flush=True)
                    await bench.measure_once()
                messages = await stack.audit_all()
        finally:
            await ledger.close()
        packages = (*PACKAGES, "starlette", "uvicorn", "httptools", "phonenumberslite")
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": {**versions(rabbit, redis, packages), "wrk": wrk},
            "rounds": args.rounds,
            "scale": args.scale,
            "seconds": bench.seconds,
            "sending": SENDING,
            "batches_at_once": AT_ONCE,
            "messages": messages,
            **bench.figures.results(),
        }


class _Bench:
    """All that is measured of one stack."""

    def __init__(self, stack: Stack, folder: Path, scale: float) -> None:
        self._stack = stack
        self.seconds = max(1, round(SECONDS * scale))
        self._requests = {size: max(1, round(count * scale)) for size, count in BATCHES.items()}
        self.figures = Figures()
        items = load.messages(max(BATCHES))
        lines = [json.dumps(item).encode() for item in items]
        self._bodies = {
            (kind, size): b"[" + b",".join(lines[:size]) + b"]"
            if kind == load.JSON
            else b"\n".join(lines[:size])
            for kind in (load.JSON, load.NDJSON)
            for size in BATCHES
        }
        self._singles = folder / "singles"
        self._singles.write_bytes(b"\n".join(lines[:DIFFERENT]) + b"\n")
        self._paths = folder / "paths"

    async def warm_up(self) -> None:
        """Each kind of request once; code that never ran is slow. Makes messages that can be asked for."""
        for url in (self._stack.bare, self._stack.wrapped, self._stack.gateway):
            await self._wrk(POST, url, 16, 1)
        body = self._bodies[load.JSON, DIFFERENT]
        posted = await load.batches(
            f"{self._stack.gateway}/sms/batch?track=true", self._stack.key, load.JSON, body, DIFFERENT, 1, 1
        )
        ids = (f"/sms/{run}.{seq}\n" for run in posted.runs for seq in range(DIFFERENT))
        self._paths.write_text("".join(ids))
        await self._stack.settled()

    async def measure_once(self) -> None:
        """One round."""
        for connections in CONNECTIONS:
            for who in ("bare", "wrapped"):
                seen = await self._wrk(POST, getattr(self._stack, who), connections, self.seconds)
                self.figures.add_requests(who, connections, seen)
            await self._singles_of(connections)
        for size in BATCHES:
            for kind in (load.JSON, load.NDJSON):
                await self._batches_of(kind, size)
        seen = await self._wrk(GET, self._stack.gateway, CONNECTIONS[1], self.seconds)
        self.figures.add_requests("get", CONNECTIONS[1], seen)

    async def _singles_of(self, connections: int) -> None:
        before = await self._stack.settled()
        meter = Meter(**self._stack.processes)
        meter.start()
        seen = await self._wrk(POST, self._stack.gateway, connections, self.seconds)
        meter.sample()
        accepted = await self._stack.settled() - before
        # wrk leaves when its time is over: what it has asked by then is answered too, to nobody.
        if not seen.done <= accepted <= seen.done + connections:
            raise BenchmarkFailed(f"{seen.done} messages were answered 202, and {accepted} published")
        self.figures.add_requests("post", connections, seen)
        self.figures.add_cpu(connections, {name: s / accepted * 1e3 for name, s in meter.cpu_s().items()})

    async def _batches_of(self, kind: str, size: int) -> None:
        before, requests = await self._stack.settled(), self._requests[size]
        url = f"{self._stack.gateway}/sms/batch"
        posted = await load.batches(
            url, self._stack.key, kind, self._bodies[kind, size], size, requests, AT_ONCE
        )
        accepted = await self._stack.settled() - before
        if accepted != size * requests or len(set(posted.runs)) != requests:
            raise BenchmarkFailed(
                f"{requests} batches of {size} were accepted, and {accepted} messages published"
            )
        for run in posted.runs:
            await self._stack.audit(run, size)
        self.figures.add_batches(kind, size, requests, accepted / posted.time_s)

    async def _wrk(self, method: str, url: str, connections: int, seconds: int) -> load.Requests:
        file, path = (self._singles, "/sms") if method == POST else (self._paths, "")
        return await load.requests(method, f"{url}{path}", file, self._stack.key, connections, seconds)


if __name__ == "__main__":
    sys.exit(main())

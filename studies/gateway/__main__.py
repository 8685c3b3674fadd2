"""How many messages the gateway takes in: `make bench-gateway`, `python -m studies.gateway`.

Starts RabbitMQ, Redis, a gateway and a sender of its own. wrk posts single messages at several numbers of connections,
and in the same rounds to a route of the same framework that does nothing. Requests with many messages follow, as a JSON
array and as NDJSON, and requests for messages. Every accepted message must be published, and sent or failed, or there
are no figures. Writes JSON, and prints tables.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from studies import RESULTS, runs
from studies.command import run_study, study_parser
from studies.gateway.figures import Figures, GatewayRecord
from studies.gateway.load import GET, JSON, NDJSON, POST, Upload, Wrk, messages, wrk_version
from studies.gateway.stack import SENDING, Stack
from studies.gateway.table import markdown
from studies.meter import Meter
from studies.process import StudyFailed
from studies.record import PACKAGES
from studies.servers import Servers


@dataclass(frozen=True)
class Plan:
    """The measurements to make.

    Attributes:
        seconds: How long wrk runs each time.
        connections: wrk's connections.
        requests: How many requests, by their number of messages.
        at_once: Clients that post many messages a request.
        different: How many different messages wrk posts in turn, and asks for in turn.
    """

    seconds: int = 3
    connections: tuple[int, ...] = (16, 64, 256)
    requests: dict[int, int] = field(default_factory=lambda: {1_000: 80, 10_000: 16, 100_000: 4})
    at_once: int = 2
    different: int = 1_000

    def scaled(self, scale: float) -> "Plan":
        """With other times and counts."""
        requests = {size: max(1, round(count * scale)) for size, count in self.requests.items()}
        return Plan(seconds=max(1, round(self.seconds * scale)), requests=requests)


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.gateway",
        "Measures the gateway under load, beside a route that does nothing.",
        out=RESULTS / "gateway.json",
        rounds=3,
        scales="times and counts",
    )
    return run_study(parser, _measure, markdown)


async def _measure(args: argparse.Namespace) -> GatewayRecord:
    wrk, plan = wrk_version(), Plan().scaled(args.scale)
    async with Servers.started() as servers, Stack.started(servers) as stack:
        with tempfile.TemporaryDirectory() as folder:
            bench = _Bench(stack, plan, Path(folder))
            await bench.warm_up()
            for done in range(args.rounds):
                print(f"round {done + 1} of {args.rounds}", file=sys.stderr, flush=True)
                await bench.measure_once()
        accepted = await stack.audit_all()
        conditions = servers.conditions((*PACKAGES, "starlette", "uvicorn", "httptools", "phonenumberslite"))
        conditions["versions"]["wrk"] = wrk
        return GatewayRecord(
            **conditions,
            rounds=args.rounds,
            scale=args.scale,
            seconds=plan.seconds,
            sending=SENDING,
            batches_at_once=plan.at_once,
            messages=accepted,
            requests=bench.figures.requests(),
            batches=bench.figures.batches(),
            cpu_ms_a_message=bench.figures.cpu(),
        )


class _Bench:
    """Everything that is measured of one stack."""

    def __init__(self, stack: Stack, plan: Plan, folder: Path) -> None:
        self.figures = Figures()
        self._stack = stack
        self._plan = plan
        lines = [json.dumps(item).encode() for item in messages(max(plan.requests))]
        self._uploads = [
            self._upload(kind, lines[:size]) for size in plan.requests for kind in (JSON, NDJSON)
        ]
        self._singles = folder / "singles"
        self._singles.write_bytes(b"\n".join(lines[: plan.different]) + b"\n")
        self._paths = folder / "paths"

    async def warm_up(self) -> None:
        """Sends each kind of request once, since code that never ran is slow, and makes messages to ask for."""
        for url in (self._stack.bare, self._stack.gateway):
            await self._post(url).run(connections=16, seconds=1)
        lines = self._singles.read_bytes().splitlines()
        posted = await self._upload(JSON, lines, "?track=true").post(requests=1, at_once=1)
        ids = (f"/sms/{run}.{seq}\n" for run in posted.runs for seq in range(len(lines)))
        self._paths.write_text("".join(ids))
        await self._stack.settled()

    async def measure_once(self) -> None:
        """One round."""
        for connections in self._plan.connections:
            seen = await self._post(self._stack.bare).run(connections, self._plan.seconds)
            self.figures.add_requests("bare", connections, seen)
            await self._measure_singles(connections)
        for upload in self._uploads:
            await self._measure_batches(upload)
        get = Wrk(GET, self._stack.gateway, self._paths, self._stack.key)
        connections = self._plan.connections[1]
        self.figures.add_requests("get", connections, await get.run(connections, self._plan.seconds))

    async def _measure_singles(self, connections: int) -> None:
        before = await self._stack.settled()
        meter = Meter(self._stack.pids)
        meter.start()
        seen = await self._post(self._stack.gateway).run(connections, self._plan.seconds)
        meter.sample()
        accepted = await self._stack.settled() - before
        # wrk leaves when its time is over, and does not wait for the answer of its last requests.
        if not seen.done <= accepted <= seen.done + connections:
            raise StudyFailed(f"{seen.done} messages were answered 202, and {accepted} published")
        self.figures.add_requests("post", connections, seen)
        self.figures.add_cpu(connections, {name: s / accepted * 1e3 for name, s in meter.cpu_s().items()})

    async def _measure_batches(self, upload: Upload) -> None:
        before, requests = await self._stack.settled(), self._plan.requests[upload.messages]
        posted = await upload.post(requests, self._plan.at_once)
        accepted = await self._stack.settled() - before
        if accepted != upload.messages * requests or len(set(posted.runs)) != requests:
            raise StudyFailed(
                f"{requests} requests of {upload.messages} were accepted, and {accepted} messages published"
            )
        for run in posted.runs:
            await runs.audit(self._stack.ledger, run, upload.messages)
        self.figures.add_batches(upload.kind, upload.messages, requests, accepted / posted.time_s)

    def _post(self, url: str) -> Wrk:
        return Wrk(POST, f"{url}/sms", self._singles, self._stack.key)

    def _upload(self, kind: str, lines: list[bytes], query: str = "") -> Upload:
        body = b"[" + b",".join(lines) + b"]" if kind == JSON else b"\n".join(lines)
        url = f"{self._stack.gateway}/sms/batch{query}"
        return Upload(url=url, key=self._stack.key, kind=kind, body=body, messages=len(lines))


if __name__ == "__main__":
    sys.exit(main())

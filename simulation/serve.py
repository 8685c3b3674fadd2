"""`smsim serve`: gateway, sender, statistics and dashboard in one process with no server, for programs to be tested
against (docs/stand-in.md).
"""

import asyncio
import contextlib
import os
import sys
from typing import Any

from common.broker.memory import MemoryBroker
from common.cli import Parser, number, run_command, stop_on_signals, warn_of_near_misses, whole
from common.errors import RunOpen, UsageError
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.settings import LogLevel, Settings, load_settings
from common.stores import HOUR_S, memory_stores
from common.tracking.memory import MemoryTracker
from gateway.app import Gateway, Stores
from gateway.callbacks.memory import MemoryCallbacks
from gateway.cli import is_loopback, refuse_open_doors
from gateway.idempotency.memory import MemoryIdempotency
from monitor.metrics import PipelineMetrics
from sender.metrics import SenderMetrics
from sender.providers import simulated
from sender.providers.magic import MagicBehaviour, MagicNumbers
from sender.providers.profiles import refuse_beside_profile
from sender.service import Sender

SENDER = "stand-in"
# What a developer wants of a stand-in, where it differs from what a study of a provider wants.
DEFAULTS: dict[str, Any] = {
    "mean_processing_time": 0.1,
    "failure_rate": 0.0,
    "sender_concurrency": 10_000,
    "max_attempts": MagicBehaviour.throttled_attempts + 1,
    "retry_backoff": 0.25,
    "shutdown_grace": 1.0,  # all is forgotten at the end anyway
    "log_level": LogLevel.WARNING,
}
# What bounds the memory, beside the bounds of the parts. Messages that wait in each lane: beyond that, publishes wait.
LANE_CAPACITY = 200_000
RECORDS_KEPT = 100_000
# A batch may bring 100,000 steps at once, and the inbox is to miss none.
STEPS_WAITING = 1_000_000
# Of runs that are over the newest are kept, and no more than so many messages, at one byte each.
RUNS_KEPT = 1_000
MESSAGES_KEPT = 50_000_000
SNAPSHOT_EVERY_S = 1.0


def main(argv: list[str] | None = None, prog: str = "smsim serve") -> int:
    """Reads the arguments and serves until SIGTERM or Ctrl-C."""
    parser = Parser(prog, "A local stand-in for an SMS service: REST, live events, dashboard and an inbox.")
    parser.add_argument(
        "--host", help="where it listens (GATEWAY_HOST, 127.0.0.1); others need GATEWAY_API_KEY"
    )
    parser.add_argument("--port", type=whole(0, 65535), help="(GATEWAY_PORT, 8000; 0: any free one)")
    parser.add_argument(
        "--mean-processing-time", type=number(0, 86_400), help="seconds (MEAN_PROCESSING_TIME; 0.1)"
    )
    parser.add_argument(
        "--failure-rate", type=number(0, 1), help="share of attempts that fail (FAILURE_RATE; 0)"
    )
    parser.add_argument(
        "--max-attempts", type=whole(1, 1000), help="tries before a message is failed (MAX_ATTEMPTS; 3)"
    )
    parser.add_argument(
        "--concurrency", type=whole(1, 10_000_000), help="sends in flight (SENDER_CONCURRENCY; 10000)"
    )
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes times and failures repeat (SEED)")
    args = parser.parse_args(argv)

    async def run() -> int:
        behaviour = {"mean_processing_time": args.mean_processing_time, "failure_rate": args.failure_rate}
        settings = stand_in_settings(
            gateway_host=args.host,
            gateway_port=args.port,
            max_attempts=args.max_attempts,
            sender_concurrency=args.concurrency,
            seed=args.seed,
            **behaviour,
        )
        refuse_beside_profile(settings, behaviour)
        configure_logs("stand-in", settings.log_level, settings.log_file, sys.stderr)
        warn_of_near_misses()
        await _serve(settings, prog)
        return 0

    return run_command(prog, run)


def stand_in_settings(**flags: Any) -> Settings:
    """The settings in force, with DEFAULTS in place of the usual ones; no authentication on loopback.

    What `.env` says counts unless it repeats a usual default: `make env` writes all of these there, for docker-compose.
    Raises UsageError if others than this machine could come in with no key.
    """
    settings = load_settings(**flags)
    defaults = DEFAULTS | ({"gateway_auth": False} if is_loopback(settings.gateway_host) else {})
    in_environment = {name.lower() for name, value in os.environ.items() if value}
    mine = {
        name: value
        for name, value in defaults.items()
        if flags.get(name) is None
        and name not in in_environment
        and getattr(settings, name) == Settings.model_fields[name].default
    }
    settings = settings.model_copy(update=mine)
    refuse_open_doors(settings)
    if settings.gateway_auth and settings.gateway_api_key is None:
        raise UsageError(
            f"others than this machine may come in by GATEWAY_HOST={settings.gateway_host}, so it needs a key:"
            " set GATEWAY_API_KEY (e.g. to what openssl rand -hex 32 prints), or listen on 127.0.0.1"
        )
    return settings


async def _serve(settings: Settings, prog: str) -> None:
    """Builds the stand-in in memory and runs it until a signal says stop."""
    broker, ttl_s = MemoryBroker(capacity=LANE_CAPACITY), settings.message_ttl * HOUR_S
    shared = memory_stores(settings, tracker=MemoryTracker(ttl_s, RECORDS_KEPT, most_waiting=STEPS_WAITING))
    stores = Stores(shared.api_keys, MemoryIdempotency(), MemoryCallbacks(ttl_s))
    gateway = Gateway(settings, broker, shared.ledger, shared.tracker, stores, stand_in=True)
    sender = Sender(
        SENDER,
        broker,
        shared.ledger,
        MagicNumbers(simulated.create(settings)),
        settings.sender_concurrency,
        settings.max_attempts,
        settings.retry_backoff,
        settings.shutdown_grace,
        limit=shared.rate_limit,
        tracker=shared.tracker,
    )
    pipeline = PipelineMetrics()
    gateway.metrics.registry.register(SenderMetrics(sender))
    gateway.metrics.registry.register(pipeline)
    stop, sender_stop = stop_on_signals(), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run(sender_stop))
            caring = tasks.create_task(_care_for(shared.ledger, pipeline))
            async with gateway.serving(settings.gateway_host, settings.gateway_port) as port:
                sys.stderr.write(f"{prog}: {_ready(settings, port)}\n")
                sys.stderr.flush()
                await stop.wait()
            caring.cancel()
            sender_stop.set()
    finally:
        await broker.close()
        await shared.close()


def _ready(settings: Settings, port: int) -> str:
    """Where it listens, and how sends turn out."""
    host = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
    behaviour = (
        f"a send takes {settings.mean_processing_time:g} s, {100 * settings.failure_rate:.3g} % of them fail"
        if settings.provider_profile is None
        else f"profile {settings.provider_profile}"
    )
    return f"ready on http://{host}:{port}/ ({behaviour}; Ctrl-C ends it)"


async def _care_for(ledger: Ledger, pipeline: PipelineMetrics) -> None:
    """Tells the metrics where the pipeline stands, and lets go of old runs, until cancelled."""
    while True:
        pipeline.update(await ledger.snapshot())
        await forget_old_runs(ledger)
        await asyncio.sleep(SNAPSHOT_EVERY_S)


async def forget_old_runs(
    ledger: Ledger, runs_kept: int = RUNS_KEPT, messages_kept: int = MESSAGES_KEPT
) -> None:
    """Of the runs that are over, forgets all but the newest."""
    messages = 0
    for runs, run in enumerate(reversed(await ledger.runs()), start=1):
        publication = await ledger.publication(run)
        messages += publication.announced
        # A gateway's session, whose total is not known, may get messages still.
        if publication.total and (runs > runs_kept or messages > messages_kept):
            with contextlib.suppress(RunOpen):
                await ledger.forget(run)

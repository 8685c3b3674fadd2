"""`smsim serve`: gateway, sender, statistics and dashboard in one process with no server (docs/stand-in.md).

A local stand-in for an SMS service, to test programs against.
"""

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
from dataclasses import dataclass
from typing import Any

from common.audit import open_audit_log
from common.broker.memory import MemoryBroker
from common.cli import Parser, number, run_command, stop_on_signals, warn_of_near_misses, whole
from common.errors import RunOpen, UsageError
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.settings import LogLevel, Settings, load_settings
from common.stores import HOUR_S, Stores, memory_stores
from common.tracking.memory import MemoryTracker
from common.web.guard import is_loopback
from gateway.app import Gateway
from gateway.doors import gateway_tls, refuse_open_doors
from gateway.stores import memory_gateway_stores
from monitor.metrics import PipelineMetrics
from sender.metrics import SenderMetrics
from sender.providers import simulated
from sender.providers.magic import MagicBehaviour, MagicNumbers
from sender.providers.profiles import refuse_beside_profile
from sender.service import Sender, build_sender

# Defaults for developers, where they differ from those for studies.
DEFAULTS: dict[str, Any] = {
    "mean_processing_time": 0.1,
    "failure_rate": 0.0,
    "sender_concurrency": 10_000,
    "max_attempts": MagicBehaviour.throttled_attempts + 1,
    "retry_backoff": 0.25,
    "gateway_backlog": 200_000,
    "reserved_numbers": True,  # tests write to numbers that belong to nobody
    "shutdown_grace": 1.0,  # the messages are lost at the end in any case
    "log_level": LogLevel.WARNING,
}


@dataclass(frozen=True)
class Limits:
    """The bounds of the stand-in's memory, beside those of its parts.

    Attributes:
        lane_capacity: The most messages that wait in a lane; publishes wait beyond that.
        record_bytes: The most memory of messages with texts and steps.
        steps_waiting: The most steps that wait for the inbox: a batch may bring 100,000 at once, and none may be lost.
        runs: The most runs that are kept once they are over.
        messages: The most messages in them, at one byte each.
    """

    lane_capacity: int = 200_000
    record_bytes: int = 128 * 1024 * 1024
    steps_waiting: int = 1_000_000
    runs: int = 1_000
    messages: int = 50_000_000


@dataclass(frozen=True)
class StandIn:
    """The parts of the stand-in, all in memory.

    Attributes:
        broker: The queues.
        stores: The stores that its services share.
        gateway: The REST API and the dashboard.
        sender: The sender; it plays a profile, and sends nothing.
        pipeline: The metrics of the pipeline.
    """

    broker: MemoryBroker
    stores: Stores
    gateway: Gateway
    sender: Sender
    pipeline: PipelineMetrics

    @classmethod
    def build(cls, settings: Settings) -> "StandIn":
        """Builds them. Raises UsageError for an invalid profile."""
        limits, ttl_s = Limits(), settings.message_ttl * HOUR_S
        broker = MemoryBroker(capacity=limits.lane_capacity)
        ledger = MemoryLedger()
        tracker = MemoryTracker(ttl_s, limits.record_bytes, buffered_steps=limits.steps_waiting)
        stores = memory_stores(settings, ledger, tracker)
        own = memory_gateway_stores(settings, ledger=ledger, tracker=tracker)
        audit = open_audit_log(settings, "stand-in", sys.stderr)
        gateway = Gateway(settings, broker, own, stand_in=True, audit=audit)
        provider = MagicNumbers(simulated.create(settings))
        # Failed messages are not kept: everything is gone when it ends.
        of_sender = settings.model_copy(update={"keep_failed": False})
        sender = build_sender("embedded", of_sender, broker, stores, provider)
        pipeline = PipelineMetrics()
        gateway.metrics.registry.register(SenderMetrics(sender))
        gateway.metrics.registry.register(pipeline)
        return cls(broker, stores, gateway, sender, pipeline)


def main(argv: list[str] | None = None, prog: str = "smsim serve") -> int:
    """Reads the arguments and serves until SIGTERM or Ctrl-C."""
    args = _parser(prog).parse_args(argv)
    return run_command(prog, lambda: _run(args, prog))


async def _run(args: argparse.Namespace, prog: str) -> int:
    settings = _settings(args)
    configure_logs("stand-in", settings.log_level, settings.log_file, sys.stderr)
    warn_of_near_misses()
    tls = gateway_tls(settings)
    await _serve(StandIn.build(settings), settings, tls, prog=prog)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog, "A local stand-in for an SMS service: REST, live events, dashboard and an inbox.")
    parser.add_argument(
        "--host",
        help="address to listen on (GATEWAY_HOST, 127.0.0.1); others need GATEWAY_API_KEY",
    )
    parser.add_argument("--port", type=whole(0, 65535), help="(GATEWAY_PORT, 8000; 0: any free one)")
    parser.add_argument(
        "--mean-processing-time",
        type=number(0, 86_400),
        help="seconds (MEAN_PROCESSING_TIME; 0.1)",
    )
    parser.add_argument(
        "--failure-rate",
        type=number(0, 1),
        help="share of attempts that fail (FAILURE_RATE; 0)",
    )
    parser.add_argument(
        "--max-attempts",
        type=whole(1, 1000),
        help="attempts before a message is failed (MAX_ATTEMPTS; 3)",
    )
    parser.add_argument(
        "--concurrency",
        type=whole(1, 10_000_000),
        help="sends in flight (SENDER_CONCURRENCY; 10000)",
    )
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes times and failures repeat (SEED)")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """The settings in force. Raises UsageError."""
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
    return settings


def stand_in_settings(**flags: Any) -> Settings:
    """The settings in force, with DEFAULTS in place of the usual ones, and no authentication on loopback.

    A value of `.env` that is a usual default counts as unset: `make env` writes all of these, for docker-compose.

    Raises:
        UsageError: A setting is invalid, or other machines could connect without a key.
    """
    settings = load_settings(**flags)
    defaults = dict(DEFAULTS)
    if is_loopback(settings.gateway_host):
        defaults["gateway_auth"] = False
    for name in list(defaults):
        if flags.get(name) is not None or _is_set(settings, name):
            del defaults[name]
    settings = settings.model_copy(update=defaults)
    refuse_open_doors(settings)
    if settings.gateway_auth and settings.gateway_api_key is None:
        raise UsageError(
            f"other machines can connect to GATEWAY_HOST={settings.gateway_host}, so it needs a key:"
            " set GATEWAY_API_KEY (e.g. to the output of openssl rand -hex 32), or listen on 127.0.0.1"
        )
    return settings


def _is_set(settings: Settings, name: str) -> bool:
    """Whether the environment sets it, or `.env` to a value that is not the usual default."""
    in_environment = {variable.lower() for variable, value in os.environ.items() if value}
    return name in in_environment or getattr(settings, name) != Settings.model_fields[name].default


async def _serve(stand_in: StandIn, settings: Settings, tls: ssl.SSLContext | None, *, prog: str) -> None:
    """Runs the stand-in until a signal stops it."""
    stop, sender_stop = stop_on_signals(), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stand_in.sender.run(sender_stop))
            upkeep = tasks.create_task(_keep_up(stand_in.stores.ledger, stand_in.pipeline))
            host, port = settings.gateway_host, settings.gateway_port
            async with stand_in.gateway.serving(host, port, tls) as port:
                sys.stderr.write(f"{prog}: {_ready(settings, port)}\n")
                sys.stderr.flush()
                await stop.wait()
            upkeep.cancel()
            sender_stop.set()
    finally:
        await stand_in.broker.close()
        await stand_in.stores.close()


def _ready(settings: Settings, port: int) -> str:
    """The address, and the behaviour of sends."""
    host = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
    if settings.provider_profile is None:
        mean_s, failed = settings.mean_processing_time, 100 * settings.failure_rate
        behaviour = f"a send takes {mean_s:g} s, {failed:.3g} % of them fail"
    else:
        behaviour = f"profile {settings.provider_profile}"
    scheme = "https" if settings.gateway_tls_cert else "http"
    return f"ready on {scheme}://{host}:{port}/ ({behaviour}; Ctrl-C ends it)"


async def _keep_up(ledger: Ledger, pipeline: PipelineMetrics, every_s: float = 1.0) -> None:
    """Updates the metrics and forgets old runs, until cancelled."""
    while True:
        pipeline.update(await ledger.snapshot())
        await forget_old_runs(ledger, Limits())
        await asyncio.sleep(every_s)


async def forget_old_runs(ledger: Ledger, limits: Limits) -> None:
    """Forgets runs that are over, except the newest."""
    messages = 0
    for runs, run in enumerate(reversed(await ledger.runs()), start=1):
        publication = await ledger.publication(run)
        messages += publication.announced
        # A gateway's session has no known total: it may still get messages.
        is_old = runs > limits.runs or messages > limits.messages
        if publication.total and is_old:
            with contextlib.suppress(RunOpen):
                await ledger.forget(run)

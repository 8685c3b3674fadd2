"""`python sender.py`, `smsim send`: one sender process."""

import asyncio
import os
import socket
from argparse import Namespace

from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.cli import (
    Parser,
    add_connect_timeout,
    number,
    run_command,
    sender_name,
    settle_down,
    stop_on_signals,
    warn_of_near_misses,
    whole,
)
from common.logs import configure_logs
from common.metrics import metrics_served, new_registry
from common.settings import Settings, load_settings
from common.stores import connect_stores, warn_of_another_queue
from sender.copies import RetryPolicy
from sender.metrics import SenderMetrics
from sender.providers.bulk import BulkProvider
from sender.providers.profiles import refuse_beside_profile
from sender.providers.registry import build_provider
from sender.service import build_sender


def main(argv: list[str] | None = None, prog: str = "sender.py") -> int:
    """Reads the arguments and runs a sender until SIGTERM or Ctrl-C."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        settings = _settings(args)
        configure_logs("sender", settings.log_level, settings.log_file)
        warn_of_near_misses()
        return await _serve(settings, args.name, args.connect_timeout)

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "Consumes messages, sends them through the provider and records the outcomes.")
    name = f"{socket.gethostname()}-{os.getpid()}"
    parser.add_argument("--name", type=sender_name, default=name, help="its name in the statistics")
    parser.add_argument("--concurrency", type=whole(1), help="sends in flight at most (SENDER_CONCURRENCY)")
    parser.add_argument("--mean-processing-time", type=number(0), help="seconds (MEAN_PROCESSING_TIME)")
    parser.add_argument("--failure-rate", type=number(0, 1), help="share of sends that fail (FAILURE_RATE)")
    parser.add_argument(
        "--profile", help="a profile's name or YAML file, in place of those (PROVIDER_PROFILE)"
    )
    add_connect_timeout(parser)
    return parser


def _settings(args: Namespace) -> Settings:
    behaviour = {"mean_processing_time": args.mean_processing_time, "failure_rate": args.failure_rate}
    settings = load_settings(sender_concurrency=args.concurrency, provider_profile=args.profile, **behaviour)
    refuse_beside_profile(settings, behaviour)
    return settings


async def _serve(settings: Settings, name: str, connect_timeout_s: float) -> int:
    """Builds the sender and runs it. Its provider comes first, since its settings may be wrong."""
    provider = build_provider(settings)
    try:
        await _run(settings, name, provider, connect_timeout_s)
    finally:
        await provider.close()
    return 0


async def _run(settings: Settings, name: str, provider: BulkProvider, connect_timeout_s: float) -> None:
    """Runs a sender on RabbitMQ and Redis."""
    policy = RetryPolicy(settings.max_attempts, settings.retry_backoff, settings.keep_failed)
    stores = await connect_stores(settings, connect_timeout_s)
    broker = await connect_broker(settings, "sender", connect_timeout_s)
    await warn_of_another_queue(stores.client, settings)
    await _declare(broker, policy)
    sender = build_sender(name, settings, broker, stores, provider)
    try:
        registry = new_registry("sender", SenderMetrics(sender, lambda: broker.connected))
        settle_down()
        async with metrics_served(settings, registry):
            await sender.run(stop_on_signals())
    finally:
        await asyncio.gather(broker.close(), stores.close())


async def _declare(broker: RabbitBroker, policy: RetryPolicy) -> None:
    """Declares the queues that are not there until they are used."""
    if policy.max_attempts > 1:
        await broker.declare_retries(policy.longest_backoff_s(policy.max_attempts - 1))
    if policy.keep_failed:
        await broker.declare_failed()

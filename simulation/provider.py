"""`smsim provider`: an SMS service over HTTP to send to (docs/providers.md)."""

import argparse
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from common.cli import Parser, run_command, stop_on_signals, warn_of_near_misses, whole
from common.logs import configure_logs
from common.open_files import raise_file_limit
from common.settings import load_settings
from common.web import server
from common.web.guard import Guard, hosts_at
from common.web.limits import Limits
from sender.providers.profiles import configured_profile
from simulation.accepted import Record
from simulation.fates import Fates
from simulation.mock_provider import MockProvider

log = logging.getLogger(__name__)

DEFAULT_PORT = 8025


@asynccontextmanager
async def serving(
    provider: MockProvider, host: str = "127.0.0.1", port: int = 0, grace_s: float = 8.0
) -> AsyncIterator[int]:
    """Serves a mock provider; yields the port (0 asks for any free one). At the end, closes the provider.

    Requests in progress are completed within `grace_s` seconds: Docker kills 10 s after SIGTERM. It has as many
    connections as the system allows: a sender opens one for each of its slots, all at once.

    Raises:
        Unavailable: It can't listen at this address.
    """
    app = Guard(provider.app(), hosts_at(host))
    most = max(1, raise_file_limit() - server.SPARE_FILES)
    limits = Limits(connections=most, connections_per_address=most, grace_s=grace_s)
    try:
        async with server.serving(app, host, port, limits) as bound:
            yield bound
    finally:
        provider.close()


def main(argv: list[str] | None = None, prog: str = "smsim provider") -> int:
    """Reads the arguments and answers until SIGTERM or Ctrl-C."""
    args = _parser(prog).parse_args(argv)
    return run_command(prog, lambda: _run(args))


async def _run(args: argparse.Namespace) -> int:
    settings = load_settings(provider_profile=args.profile, seed=args.seed)
    configure_logs("provider", settings.log_level, settings.log_file, sys.stderr)
    warn_of_near_misses()
    seed = secrets.randbits(63) if settings.seed is None else settings.seed
    fates = Fates(configured_profile(settings), seed)
    provider = MockProvider(fates, args.record and Record(args.record))
    await _serve(provider, args.host, args.port, seed)
    return 0


async def _serve(provider: MockProvider, host: str, port: int, seed: int) -> None:
    stop = stop_on_signals()
    async with serving(provider, host, port) as bound:
        log.info("provider_listening", extra={"host": host, "port": bound, "seed": seed})
        await stop.wait()
        log.info("provider_stopping", extra=msgspec.structs.asdict(provider.stats))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog, "An SMS service to test with: takes messages at POST /sms and plays a profile.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port",
        type=whole(0, 65535),
        default=DEFAULT_PORT,
        help="port to listen on (default: 8025; 0: any free one)",
    )
    parser.add_argument("--profile", help="a built-in profile's name, or a YAML file (PROVIDER_PROFILE)")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes it repeat exactly (SEED)")
    parser.add_argument(
        "--record",
        type=Path,
        help="file to append `<id> <attempt>` of each accepted send to",
    )
    return parser

"""`smsim keys`: creates, lists and revokes the gateway's API keys."""

import argparse
import re
import sys
import time
from datetime import UTC, datetime

import msgspec

from common.cli import (
    BRIEF_CONNECT_TIMEOUT_S,
    EXIT_DONE,
    Parser,
    add_connect_timeout,
    run_command,
    warn_of_near_misses,
)
from common.errors import UsageError
from common.logs import configure_logs
from common.settings import load_settings
from common.stores import connect_stores
from common.web.keys.port import ALL_SCOPES, ApiKey, ApiKeys, new_key
from common.web.operations import Scope

LONGEST_NAME = 64


def main(argv: list[str] | None = None, prog: str = "smsim keys") -> int:
    """Does what its subcommand says."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        settings = load_settings()
        configure_logs("gateway", settings.log_level, settings.log_file, stream=sys.stderr)
        warn_of_near_misses()
        async with await connect_stores(settings, args.connect_timeout) as stores:
            await args.job(stores.api_keys, args)
        return EXIT_DONE

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "Creates, lists and revokes the API keys of the gateways on this Redis.")
    jobs = parser.add_subparsers(title="jobs", required=True, metavar="create|list|revoke")
    create = jobs.add_parser(
        "create",
        help="make a key and print it, this once",
        description="Makes a key and prints it, alone on stdout. It is not kept, so it can't be shown again.",
    )
    create.add_argument("--name", type=_name, required=True, metavar="NAME", help="who or what it is for")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it allows; may be given twice (default: both)",
    )
    create.set_defaults(job=_create)
    list_ = jobs.add_parser("list", help="show the keys", description="Shows the keys, without secrets.")
    list_.add_argument("--json", action="store_true", help="one JSON array on stdout")
    list_.set_defaults(job=_list)
    revoke = jobs.add_parser(
        "revoke", help="refuse a key from now on", description="Refuses a key, within 5 s on every gateway."
    )
    revoke.add_argument("id", metavar="ID", help="as in list")
    revoke.set_defaults(job=_revoke)
    for job in (create, list_, revoke):
        add_connect_timeout(job, BRIEF_CONNECT_TIMEOUT_S)
    return parser


async def _create(keys: ApiKeys, args: argparse.Namespace) -> None:
    scopes = [Scope(scope) for scope in args.scope] if args.scope else ALL_SCOPES
    while True:
        key, whole = new_key(args.name, scopes, time.time_ns() // 1000)
        if await keys.add(key):
            break
    sys.stdout.write(f"{whole}\n")
    sys.stderr.write(
        f"key {key.id} of {key.name} with the scopes {_words(key)}: keep it now, it can't be shown again\n"
    )


async def _list(keys: ApiKeys, args: argparse.Namespace) -> None:
    found = sorted((await keys.all()).values(), key=lambda key: (key.created_us, key.id))
    if args.json:
        sys.stdout.write(msgspec.json.encode([_shown(key) for key in found]).decode() + "\n")
        return
    width = max((len(key.name) for key in found), default=4)
    rows = [("ID", "NAME", "SCOPES", "CREATED")]
    rows += [(key.id, key.name, _words(key), _created(key)) for key in found]
    for key_id, name, scopes, created in rows:
        sys.stdout.write(f"{key_id:<8}  {name:<{max(4, width)}}  {scopes:<9}  {created}\n")


async def _revoke(keys: ApiKeys, args: argparse.Namespace) -> None:
    if args.id not in await keys.all():
        # Somebody may have given the whole key: it is not said again.
        which = f"no key {args.id}" if re.fullmatch(r"[a-z2-7]{1,8}", args.id) else "no key of this id"
        raise UsageError(f"{which}: smsim keys list shows the ids")
    await keys.revoke(args.id)
    sys.stderr.write(f"key {args.id} is revoked: gateways refuse it within 5 s\n")


def _shown(key: ApiKey) -> dict[str, object]:
    return {"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "created": _created(key)}


def _words(key: ApiKey) -> str:
    return ",".join(sorted(key.scopes))


def _created(key: ApiKey) -> str:
    return datetime.fromtimestamp(key.created_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _name(text: str) -> str:
    """An argparse type: a key's name."""
    if not text.strip() or len(text) > LONGEST_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a name is 1 to {LONGEST_NAME} printable characters")
    return text.strip()

"""`smsim keys`: creates, lists and revokes the gateway's API keys."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from common.audit import open_command_audit
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
from common.sms.numbers import NumberRules, normalise
from common.stores import connect_stores
from common.web.keys.port import OWN_SCOPES, ApiKey, ApiKeys, Kind, new_key
from common.web.operations import Scope
from gateway.callbacks.signing import signer_of

LONGEST_NAME = 64

Record = Callable[..., None]


def main(argv: list[str] | None = None, prog: str = "smsim keys") -> int:
    """Does what its subcommand says."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        settings = load_settings()
        configure_logs("gateway", settings.log_level, settings.log_file, stream=sys.stderr)
        warn_of_near_misses()
        record = open_command_audit(settings)
        async with await connect_stores(settings, args.connect_timeout) as stores:
            await args.job(stores.api_keys, args, record)
        return EXIT_DONE

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "Creates, lists and revokes the API keys of the gateways on this Redis.")
    jobs = parser.add_subparsers(title="jobs", required=True, metavar="create|list|revoke|callback-secret")
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
        help="what it allows; may be repeated (default: send and read). With `all` it sees what other keys send, too",
    )
    create.add_argument(
        "--kind",
        choices=[kind.value for kind in Kind],
        default=Kind.LIVE.value,
        help="live; team: sends to the numbers of --to only; test: what it sends is simulated (default: live)",
    )
    create.add_argument(
        "--to",
        type=_number,
        action="append",
        default=[],
        metavar="NUMBER",
        help="a number that a team key may send to; may be repeated",
    )
    create.add_argument(
        "--expires",
        type=_end,
        metavar="DATE",
        help="its last day, like 2027-01-31 (UTC), or a time, like 2027-01-31T18:00Z",
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
    secret = jobs.add_parser(
        "callback-secret",
        help="print the secret by which the callbacks of a key's messages are signed",
        description="Prints the secret by which the callbacks of a key's messages are signed, for their receivers.",
    )
    secret.add_argument("id", metavar="ID", help="as in list")
    secret.set_defaults(job=_callback_secret)
    for job in (create, list_, revoke, secret):
        add_connect_timeout(job, BRIEF_CONNECT_TIMEOUT_S)
    return parser


async def _create(keys: ApiKeys, args: argparse.Namespace, record: Record) -> None:
    scopes = [Scope(scope) for scope in args.scope] if args.scope else OWN_SCOPES
    kind = Kind(args.kind)
    if (kind is Kind.TEAM) != bool(args.to):
        raise UsageError("--to names the numbers of a team key: give --kind team and --to NUMBER together")
    while True:
        key, whole = new_key(
            args.name,
            scopes,
            time.time_ns() // 1000,
            kind=kind,
            numbers=args.to,
            expires_us=args.expires,
        )
        if await keys.add(key):
            break
    record(
        "key_created",
        key=key.id,
        kind=key.kind,
        scopes=sorted(key.scopes),
        expires_us=key.expires_us,
    )
    sys.stdout.write(f"{whole}\n")
    sys.stderr.write(
        f"{key.kind} key {key.id} of {key.name} with the scopes {_words(key)}{_until(key)}: keep it now, it can't be"
        " shown again\n"
    )


async def _list(keys: ApiKeys, args: argparse.Namespace, _: Record) -> None:
    uses = await keys.last_uses()
    found = sorted((await keys.all()).values(), key=lambda key: (key.created_us, key.id))
    shown = [_shown(key, uses.get(key.id)) for key in found]
    if args.json:
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        return
    rows = [[name.upper().replace("_", " ") for name in _Shown.__struct_fields__]]
    rows += [[_cell(value) for value in msgspec.structs.astuple(row)] for row in shown]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


async def _callback_secret(keys: ApiKeys, args: argparse.Namespace, record: Record) -> None:
    signer = signer_of(load_settings())
    if signer is None:
        raise UsageError("callbacks are off: set CALLBACK_SECRET")
    await _check_id(keys, args.id)
    record("callback_secret_shown", key=args.id)
    sys.stdout.write(f"{signer.secret_of(args.id)}\n")


async def _check_id(keys: ApiKeys, key_id: str) -> None:
    """Raises UsageError if there is no such key."""
    if key_id not in await keys.all():
        # Somebody may have given the whole key: it is not said again.
        which = f"no key {key_id}" if re.fullmatch(r"[a-z2-7]{1,8}", key_id) else "no key of this id"
        raise UsageError(f"{which}: smsim keys list shows the ids")


async def _revoke(keys: ApiKeys, args: argparse.Namespace, record: Record) -> None:
    await _check_id(keys, args.id)
    await keys.revoke(args.id)
    record("key_revoked", key=args.id)
    sys.stderr.write(f"key {args.id} is revoked: gateways refuse it within 5 s\n")


class _Shown(msgspec.Struct):
    """A key as it is listed: nothing of its secret, and no numbers.

    Attributes:
        id: Names the key.
        name: What it is for.
        kind: What becomes of its messages.
        scopes: What it allows.
        created: Time, in ISO 8601.
        expires: When it ends, the same.
        last_use: When it was used last, the same, to the minute or so.
    """

    id: str
    name: str
    kind: Kind
    scopes: list[Scope]
    created: str
    expires: str | None
    last_use: str | None


def _shown(key: ApiKey, last_use_us: int | None) -> _Shown:
    return _Shown(
        id=key.id,
        name=key.name,
        kind=key.kind,
        scopes=sorted(key.scopes),
        created=_iso(key.created_us),
        expires=None if key.expires_us is None else _iso(key.expires_us),
        last_use=None if last_use_us is None else _iso(last_use_us),
    )


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return "-" if value is None else str(value)


def _words(key: ApiKey) -> str:
    return ",".join(sorted(key.scopes))


def _until(key: ApiKey) -> str:
    return "" if key.expires_us is None else f" until {_iso(key.expires_us)}"


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _number(text: str) -> str:
    """An argparse type: a number, in E.164 form."""
    try:
        return normalise(text, NumberRules(reserved=True))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no number to send to: {error}") from None


def _end(text: str) -> int:
    """An argparse type: when a key ends, as Unix time in microseconds. A day is meant whole."""
    try:
        end = datetime.fromisoformat(text)
        if len(text) <= len("2027-01-31"):
            end += timedelta(days=1)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("no date: write it like 2027-01-31 or 2027-01-31T18:00Z") from None
    if end.tzinfo is None:
        end = end.replace(tzinfo=UTC)
    if end <= datetime.now(UTC):
        raise argparse.ArgumentTypeError("this time is over: name one to come")
    return int(end.timestamp() * 1e6)


def _name(text: str) -> str:
    """An argparse type: a key's name."""
    if not text.strip() or len(text) > LONGEST_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a name is 1 to {LONGEST_NAME} printable characters")
    return text.strip()

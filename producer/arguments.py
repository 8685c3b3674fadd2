"""The arguments that select the messages of a run, and the source that they select."""

import argparse
import secrets
from pathlib import Path

from common.cli import Once, run_id, say, whole
from common.contacts.rows import Options
from common.contacts.source import ContactsSource, Findings
from common.contacts.tables import DELIMITERS
from common.errors import UsageError
from common.messages import MAX_BATCH_MESSAGES
from common.publishing.random import RandomSource
from common.publishing.recipes import Source, Stream
from common.settings import Settings
from common.sms.numbers import NumberRules, is_country

# The arguments that only contacts have a use for.
_OF_CONTACTS = ("text", "number_column", "delimiter", "country", "once", "strict")


def add_source_arguments(
    parser: argparse.ArgumentParser, resume: bool, batch_size: str = "(BATCH_SIZE)"
) -> None:
    """Adds the arguments; `batch_size` is the help text for the default batch size."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--num-messages", type=whole(1), metavar="N", help="publish N random messages")
    source.add_argument(
        "--contacts",
        type=Path,
        action=Once,
        metavar="FILE.csv",
        help="publish to the contacts of a CSV file (docs/contacts.md)",
    )
    if resume:
        source.add_argument("--resume", metavar="RUN", type=run_id, help="continue a run that broke off")
    _add_contacts_arguments(parser)
    parser.add_argument(
        "--batch-size", type=whole(1, MAX_BATCH_MESSAGES), metavar="B", help=f"messages a batch {batch_size}"
    )
    parser.add_argument("--run", metavar="NAME", type=run_id, help="the run's name; generated unless given")
    parser.add_argument(
        "--urgent", action="store_true", help="publish to the urgent lane, which is sent before the bulk lane"
    )


def _add_contacts_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", action=Once, metavar="TEMPLATE", help='text for contacts, such as "Hi {name}"'
    )
    parser.add_argument("--number-column", metavar="NAME", help="the column with the phone numbers")
    parser.add_argument(
        "--delimiter", type=_delimiter, metavar="CHARACTER", help="what separates columns, such as ';' or tab"
    )
    parser.add_argument(
        "--country",
        type=_country,
        metavar="CODE",
        help="country of numbers without + and country code, such as GB",
    )
    parser.add_argument(
        "--once", action="store_true", help="send a text to a number once, however many rows have both"
    )
    parser.add_argument(
        "--strict", action="store_true", help="publish nothing if there is a row to skip or to warn of"
    )


def check_source_arguments(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that go with contacts only."""
    for name in _OF_CONTACTS:
        if getattr(args, name) not in (None, False) and args.contacts is None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --contacts")


def open_source(args: argparse.Namespace, settings: Settings) -> Source:
    """The source that the arguments select. Raises UsageError.

    It reads a contacts file to its end, and says on stderr which rows are dropped.
    """
    if args.contacts is None:
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        return RandomSource(args.num_messages, seed)
    options = Options(
        text=args.text,
        number_column=args.number_column,
        delimiter=args.delimiter,
        numbers=NumberRules(country=args.country, reserved=settings.takes_reserved_numbers),
    )
    source = ContactsSource.open(args.contacts, options, once=args.once)
    _say_what_is_dropped(args.contacts, source.findings, args.once)
    if args.strict:
        _refuse_what_is_dropped(args.contacts, source.findings, args.once)
    return source


def dropped(source: Stream) -> dict[str, int]:
    """For the closing line of a run: how many rows of a contacts file were dropped or warned of."""
    return source.findings.counts() if isinstance(source, ContactsSource) else {}


def _say_what_is_dropped(path: Path, findings: Findings, once: bool) -> None:
    for row in findings.bad:
        say(f"{path}: line {row.line}: {row.reason}: skipped")
    if more := findings.skipped - len(findings.bad):
        say(f"{path}: {_count(more, 'more row', 'more rows')} skipped, {findings.skipped:,} in all")
    if findings.duplicates:
        rows = _count(findings.duplicates, "row repeats", "rows repeat")
        consequence = "it is sent once" if once else "it is sent again; --once sends it once"
        say(f"{path}: {rows} the number and text of an earlier row: {consequence}")
    if findings.unfilled:
        say(
            f"{path}: {_count(findings.unfilled, 'text holds', 'texts hold')} a placeholder for a column, which is"
            " sent as it stands: --text 'Hi {name}' fills columns in"
        )


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _refuse_what_is_dropped(path: Path, findings: Findings, once: bool) -> None:
    found = []
    if findings.skipped:
        found.append(_count(findings.skipped, "bad row", "bad rows"))
    if findings.duplicates and not once:
        found.append(_count(findings.duplicates, "repeated row", "repeated rows"))
    if findings.unfilled:
        found.append(_count(findings.unfilled, "text with a placeholder", "texts with placeholders"))
    if found:
        raise UsageError(f"{path}: {', '.join(found)} and --strict: nothing was published")


def _delimiter(text: str) -> str:
    """An argparse type: one character, or its name."""
    names = {name: character for character, name in DELIMITERS.items()} | {"\\t": "\t"}
    character = names.get(text.lower(), text)
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is neither a character nor one of {', '.join(names)}")
    return character


def _country(text: str) -> str:
    """An argparse type: a country of ISO 3166."""
    if not is_country(text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is no country code of two letters, such as GB")
    return text.upper()

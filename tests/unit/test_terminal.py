"""What others wrote (names of senders, reasons of rejected messages) does not control the operator's terminal."""

import argparse
import io

import msgspec
import pytest
from rich.console import Console

from common.cli import run_command, say, sender_name
from common.errors import Refused
from common.ledger.values import SenderStatus, Snapshot
from monitor.view import picture

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b1m\u202e"
ESCAPED = r"\x1b]0;title\x07\x1b[2J\x9b1m\u202e"

pytestmark = pytest.mark.usefixtures("process_as_before")


def test_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Line ends stay."""
    say(f"{ESCAPES}\nnext")
    assert capsys.readouterr().err == f"{ESCAPED}\nnext\n"


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A server's words may be part of an error."""

    async def main() -> int:
        raise Refused(ESCAPES)

    assert run_command("a-command", main) == 1
    assert capsys.readouterr().err == f"a-command: {ESCAPED}\n"


@pytest.mark.parametrize(("name", "shown"), [(ESCAPES, ESCAPED), ("[/b]", "[/b]"), ("[red]x", "[red]x")])
def test_names_of_senders(name: str, shown: str) -> None:
    """Neither escapes nor the markup of the library that draws the view."""
    console = Console(file=io.StringIO(), record=True, width=120)
    snapshot = msgspec.structs.replace(Snapshot(), senders={name: SenderStatus()})
    console.print(picture(snapshot, None, "all runs"))
    text = console.export_text()
    assert shown in text
    assert not any(c in text for c in "\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "x" * 101])
def test_a_sender_has_a_printable_name(name: str) -> None:
    """Of 1 to 100 characters."""
    assert sender_name("host-1") == "host-1"
    with pytest.raises(argparse.ArgumentTypeError, match="a name is 1 to 100 printable characters"):
        sender_name(name)

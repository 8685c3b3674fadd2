"""common/cli.py: types of arguments, one line for a mistake, exit codes."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.cli import Once, Parser, add_connect_timeout, number, run_command, whole
from common.errors import PublishFailed, Refused, RunExists, SmsimError, Unavailable, UsageError
from common.version import project_version
from simulation.cli import main as smsim

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("10", 10), ("7", 7), (" 5 ", 5), ("+5", 5), ("05", 5)]
)
def test_whole_numbers(text: str, value: int) -> None:
    """Both ends included."""
    assert whole(1, 10)(text) == value


@pytest.mark.parametrize("text", ["0", "11", "-1", "abc", "", "1.0", "1e1", "nan", "0x5", "9" * 5_000])
def test_what_is_no_whole_number(text: str) -> None:
    """Told with what was wanted."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 1 to 10"):
        whole(1, 10)(text)


def test_whole_numbers_without_an_end() -> None:
    """Only the lower end is told, since there is no other."""
    assert whole(1)("340000000") == 340_000_000
    with pytest.raises(argparse.ArgumentTypeError, match=r"'0' is not a whole number of at least 1$"):
        whole(1)("0")


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1", 1), ("0.5", 0.5), ("1e-3", 0.001)])
def test_numbers(text: str, value: float) -> None:
    """Both ends included."""
    assert number(0, 1)(text) == value


@pytest.mark.parametrize("text", ["-0.1", "abc", "", "nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("type_", [number(0, 1), number(0)], ids=["0 to 1", "0 and up"])
def test_what_is_no_number(text: str, type_: Callable[[str], float]) -> None:
    """NaN and infinity neither, whether or not there is an upper end."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
        type_(text)


def test_a_number_beyond_the_upper_end() -> None:
    """It is told with both ends."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"'1\.1' is not a number from 0 to 1$"):
        number(0, 1)("1.1")


def a_parser() -> Parser:
    parser = Parser("prog", "Does something.")
    parser.add_argument("--num-messages", type=whole(1))
    parser.add_argument("--contacts", action=Once)
    return parser


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        (["--num-messages", "-1"], "argument --num-messages: '-1' is not a whole number of at least 1"),
        (["--num-messages", "abc"], "argument --num-messages: 'abc' is not a whole number of at least 1"),
        (["--num-messages"], "argument --num-messages: expected one argument"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--num", "5"], "unrecognized arguments: --num 5"),
        (["--contacts", "a.csv", "--contacts=b.csv"], "--contacts is given twice"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    argv: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with the program's name and without the whole usage; abbreviations are no usage."""
    with pytest.raises(SystemExit) as ended:
        a_parser().parse_args(argv)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"prog: {wrong} (--help shows the usage)\n"


async def done() -> int:
    return 0


def raising(error: BaseException) -> Callable[[], object]:
    async def main() -> int:
        raise error

    return main


def test_the_exit_code_of_a_command_is_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Done: 0, and not a word."""
    assert run_command("prog", done) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("what is wrong"), 2),
        (RunExists("what is wrong"), 2),
        (Unavailable("what is wrong"), 1),
        (Refused("what is wrong"), 1),
        (PublishFailed("what is wrong"), 1),
        (SmsimError("what is wrong"), 1),
        (ExceptionGroup("tasks", [Refused("what is wrong")]), 1),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [UsageError("what is wrong")])]), 2),
        (ExceptionGroup("tasks", [UsageError("what is wrong"), Refused("the second")]), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_our_own_errors_are_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's mistakes end with 2, others with 1; groups of task groups are unwrapped; no traceback."""
    assert run_command("prog", raising(error)) == code  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("" if isinstance(error, KeyboardInterrupt) else "prog: what is wrong\n")


A_PROGRAM_THAT_PRINTS = """
from common.cli import run_command

async def main():
    for _ in range(100_000):
        print("a line")
    return 0

raise SystemExit(run_command("prog", main))
"""


def test_a_reader_that_has_gone_is_no_reason_for_a_traceback() -> None:
    """`smsim simulate --json | true`: exit code 1, and not a word on stderr, at the interpreter's end neither."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", A_PROGRAM_THAT_PRINTS],
            stdout=writer,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


A_PROGRAM_WHOSE_TERMINAL_IS_CLOSED = """
import asyncio, signal, sys
from common.cli import run_command, stop_on_signals

# Whether or not the tests themselves run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)

async def main():
    later = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, later.set)
    stop = stop_on_signals() if "service" in sys.argv else None
    try:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1):
            signal.raise_signal(number)
        await later.wait()
        return 10 if stop is None else 20 + stop.is_set()
    finally:
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        print("in good order")

raise SystemExit(run_command("prog", main))
"""


@pytest.mark.parametrize(
    ("how", "code"), [([], 143), (["nohup"], 10), (["service"], 21), (["service", "nohup"], 20)], ids=str
)
def test_a_closed_terminal_ends_a_command_as_sigterm_does(how: list[str], code: int) -> None:
    """With its cleaning up done, however often it is told; a service ends itself; under nohup both go on."""
    program = [sys.executable, "-c", A_PROGRAM_WHOSE_TERMINAL_IS_CLOSED, *how]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "in good order\n", "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        ExceptionGroup("tasks", [ValueError("a bug")]),
        ExceptionGroup("tasks", [UsageError("known"), ValueError("a bug")]),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [UsageError("known"), ValueError("a bug")])]),
    ],
    ids=repr,
)
def test_bugs_show_themselves(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that is not ours is raised as it is, even if one of ours stands beside it."""
    with pytest.raises(type(error)) as caught:
        run_command("prog", raising(error))  # type: ignore[arg-type]
    assert caught.value is error
    assert capsys.readouterr().err == ""


def test_help_says_what_holds_without_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own default, or that of the setting that it stands for; nothing where there is none."""
    parser = Parser("prog", "Does something.")
    parser.add_argument("--own", default=3, help="its own")
    parser.add_argument("--batch-size", help="as set (BATCH_SIZE)")
    parser.add_argument("--seed", help="no default (SEED)")
    parser.add_argument("--flag", action="store_true", help="off")
    add_connect_timeout(parser, 5)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "its own (default: 3)" in words
    assert "as set (BATCH_SIZE, default: 1)" in words
    assert "no default (SEED)" in words
    assert words.count("default:") == 3
    assert "for RabbitMQ and for Redis to answer (default: 5)" in words


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [(["--version"], 0, f"smsim {project_version()}\n"), (["--help"], 0, "usage: smsim")],
)
def test_what_smsim_says_of_itself(
    argv: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its version and its usage go to stdout."""
    monkeypatch.setattr(sys, "argv", ["smsim", *argv])
    assert smsim() == code
    assert capsys.readouterr().out.startswith(says)


def test_subparsers_take_what_any_python_hands_to_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Python 3.14 makes the parser of a subcommand with `color`, which earlier versions do not know."""
    jobs = Parser("prog", "Does something.").add_subparsers()
    made = jobs.add_parser("job", epilog="an option of argparse")
    made.add_argument("--count", type=whole(1))
    with pytest.raises(SystemExit):
        made.parse_args(["--coun", "1"])
    assert capsys.readouterr().err == "prog job: unrecognized arguments: --coun 1 (--help shows the usage)\n"


PRINTS = """
import socket, sys
from common.cli import run_command

async def main():
    one = socket.socket()
    assert one.fileno() > 2, one
    print("done", flush=True)
    return 0

sys.exit(run_command("a-command", main))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    """As cron lines and daemons start programs. A socket with the number of a standard stream would end libuv."""
    ended = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PRINTS],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_full_disk_is_one_line() -> None:
    """The result is lost, so the command fails."""
    ended = subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" >/dev/full', sys.executable, PRINTS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "a-command: can't write to stdout: No space left on device\n"


REFUSES = """
import sys
from common.cli import run_command
from common.errors import UsageError

async def main():
    raise UsageError("no such run")

sys.exit(run_command("a-command", main))
"""


def test_an_error_that_cannot_be_printed_has_its_exit_code() -> None:
    """Scripts go by it."""
    command = ["bash", "-c", 'exec "$0" -c "$1" 2>/dev/full', sys.executable, REFUSES]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 2

"""What every command does alike: settings from flags, errors as one line, exit codes, an orderly end by signals."""

import argparse
import asyncio
import contextlib
import errno
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

import uvloop

from common.errors import SmsimError, UsageError
from common.messages import is_run_id
from common.settings import Settings, near_misses

log = logging.getLogger(__name__)

T = TypeVar("T")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# How long to wait for RabbitMQ and Redis: a service, which may start together with them, and a command.
DEFAULT_CONNECT_TIMEOUT_S = 30.0
BRIEF_CONNECT_TIMEOUT_S = 5.0
LAST_WORDS_S = 1.5

LONGEST_NAME = 100

# The errors of a full disk: the rest of a command's output is lost.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def run_command(prog: str, main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs a command's coroutine on uvloop; answers its exit code, or that of its error, which it prints."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_closed_streams()
    try:
        code = uvloop.run(_ended_by_signals(main))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except asyncio.CancelledError:
        return EXIT_TERMINATED
    except BrokenPipeError:
        # The rest of the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        # What is left in the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say(f"{prog}: can't write to stdout: {error.strerror}")
        return EXIT_FAILED
    except (SmsimError, BaseExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        say(f"{prog}: {known}")
        return EXIT_USAGE if isinstance(known, UsageError) else EXIT_FAILED


def say(text: str) -> None:
    """Prints on stderr what may hold something from a file or a server: what is not printable is escaped."""
    with contextlib.suppress(OSError):  # a full disk or a closed pipe must not change the exit code
        print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr)


def printable(text: str) -> str:
    """The text with backslash escapes for control characters and for characters that are invisible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


async def in_background(work: Callable[[], T]) -> T:
    """The result of `work`, which may block: it runs in a thread, so that signals are heeded meanwhile.

    If this is canceled, nobody waits for the thread, which ends with the process.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _open_closed_streams() -> None:
    """Opens /dev/null as stdin, stdout or stderr where it is closed (`<&-`): a socket would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, open(opened, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


async def _ended_by_signals(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Cancels the command on SIGTERM and SIGHUP, unless it installs its own handlers.

    A container's first process has no default action for SIGTERM, and that of SIGHUP does not clean up.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    if _heeds_sighup():
        # Once: both the shell and the kernel send it for a closed terminal, and the second would interrupt the cleanup.
        loop.add_signal_handler(signal.SIGHUP, lambda: task.cancelling() or task.cancel())
    return await main()


def _heeds_sighup() -> bool:
    """False under nohup, which ignores it."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def _known(error: BaseException) -> SmsimError | None:
    """The SmsimError in an error or group; None if there is another error in it, which is a bug."""
    if isinstance(error, SmsimError):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [_known(e) for e in error.exceptions]
        return inner[0] if inner and all(inner) else None
    return None


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGHUP and Ctrl-C set, once; a second Ctrl-C ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        if number != signal.SIGHUP:  # a closed terminal sends it twice
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if _heeds_sighup() else [])):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def settle_down() -> None:
    """Once a service is loaded: excludes all present objects from garbage collection. Otherwise each full collection
    would visit them and block the event loop for 50 ms (measured in the gateway).
    """
    gc.collect()
    gc.freeze()


async def end_soon_after(stop: asyncio.Event, job: Coroutine[Any, Any, None]) -> None:
    """Runs a job that ends by itself once `stop` is set; cancels it if it does not end soon after that."""
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.create_task(job)
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=LAST_WORDS_S)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
    if working.done():
        working.result()


def warn_of_near_misses() -> None:
    """Logs names in the environment and `.env` that look like a misspelt setting."""
    for theirs, ours in near_misses():
        log.warning("unknown_setting", extra={"variable": theirs, "did_you_mean": ours})


class _Help(argparse.HelpFormatter):
    """Shows the default of each flag: its own, or that of the setting that its help names."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        named = re.search(r"\(([A-Z_]+)\)", text)
        if named and named[1].lower() in Settings.model_fields:
            default = Settings.model_fields[named[1].lower()].default
            return text if default is None else text.replace(named[0], f"({named[1]}, default: {default})")
        if action.default in (None, False, argparse.SUPPRESS) or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """argparse, with one clear line for bad usage, exit code 2, and no abbreviations to break later."""

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        # argparse makes the parsers of subcommands with options of its own: `color` since Python 3.14.
        super().__init__(prog, None, description, allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, printable(f"{self.prog}: {message} (--help shows the usage)") + "\n")


class Once(argparse.Action):
    """Stores a value. An option that is given twice is bad usage: one of the two would be lost silently."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


def add_connect_timeout(
    parser: argparse.ArgumentParser, default_s: float = DEFAULT_CONNECT_TIMEOUT_S
) -> None:
    """The flag --connect-timeout."""
    parser.add_argument(
        "--connect-timeout",
        type=number(0),
        default=default_s,
        metavar="SECONDS",
        help="for RabbitMQ and for Redis to answer (default: %(default)g)",
    )


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def sender_name(text: str) -> str:
    """The type of an argument that names a sender."""
    if not (1 <= len(text) <= LONGEST_NAME and text.isprintable()):
        raise argparse.ArgumentTypeError(f"a name is 1 to {LONGEST_NAME} printable characters")
    return text


def run_id(text: str) -> str:
    """An argparse type: a run's name."""
    if not is_run_id(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a run: use 1 to 40 of a-z, 0-9 and -")
    return text


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: a finite number from `low` to `high`."""
    wanted = f"a number of at least {low:g}" if high == float("inf") else f"a number from {low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse

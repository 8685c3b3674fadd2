"""common/logs.py: one JSON line an event, numbers and texts masked, a rotating file."""

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from common.logs import FloodFilter, configure_logs, mask
from common.messages import Message

pytestmark = pytest.mark.usefixtures("process_as_before")

ROOT = Path(__file__).parents[2]
NUMBER = "+358401234567"
log = logging.getLogger("tests.unit")

Logged = Callable[[], dict[str, Any]]


@pytest.fixture
def logged() -> Logged:
    """Logs from now on go to a stream; a call gives the one line that stands in it, parsed and as it is."""
    stream = io.StringIO()
    configure_logs("a-service", "INFO", stream=stream)

    def only_line() -> dict[str, Any]:
        assert stream.getvalue().endswith("\n")
        lines = stream.getvalue().splitlines()
        assert len(lines) == 1
        return {**json.loads(lines[0]), "line": lines[0]}

    return only_line


def test_an_event_is_one_json_line(logged: Logged) -> None:
    """The line says what, how bad, who and when; extras are fields of their own."""
    log.warning("publish_failed", extra={"run": "r", "attempt": 2})
    fields = logged()
    assert fields["event"] == "publish_failed"
    assert fields["level"] == "WARNING"
    assert fields["logger"] == "tests.unit"
    assert fields["service"] == "a-service"
    assert (fields["run"], fields["attempt"]) == ("r", 2)
    assert fields["timestamp"].startswith("20")


def test_line_ends_in_an_event_stay_within_its_line(logged: Logged) -> None:
    """An event or an extra with line ends in it is still one line."""
    log.info("two\nlines", extra={"reason": "and\r\nmore\u2028"})
    assert logged()["event"] == "two\nlines"


def test_a_number_in_an_event_is_masked(logged: Logged) -> None:
    """Wherever it came in: in the format or in its arguments."""
    log.info(f"{NUMBER} then %s", NUMBER)
    assert logged()["event"] == "+***567 then +***567"


@pytest.mark.parametrize(
    "extra",
    [
        {"to": NUMBER},
        {"numbers": [NUMBER, (NUMBER,)]},
        {"contact": {"phone": {"home": NUMBER}}},
        {"by_number": {NUMBER: 3}},
        {"error": ValueError(f"no route to {NUMBER}")},
        {"path": Path(f"/tmp/{NUMBER}.csv")},
        {"numbers": {NUMBER}},
    ],
    ids=["a value", "in lists", "in dicts", "a key", "an exception", "a path", "a set"],
)
def test_a_number_in_extras_is_masked(extra: dict[str, Any], logged: Logged) -> None:
    """However deep it stands, and whatever it stands in."""
    log.info("event", extra=extra)
    assert "***567" in logged()["line"]
    assert "35840" not in logged()["line"]


def test_a_number_in_an_exception_is_masked(logged: Logged) -> None:
    """A traceback and its error are one field of the line, masked like the rest."""
    try:
        raise ValueError(f"cannot send to {NUMBER}")
    except ValueError:
        log.exception("send_failed")
    fields = logged()
    assert "cannot send to +***567" in fields["exc_info"]
    assert "35840" not in fields["line"]


@pytest.mark.parametrize(
    "extra", [{"text": "hello"}, {"sms": {"text": "hello"}}, {"sms": [{"text": "hello"}]}]
)
def test_a_text_is_replaced_by_its_length(extra: dict[str, Any], logged: Logged) -> None:
    """A field called `text`, nested or not, says only how long it is."""
    log.info("event", extra=extra)
    assert "<5 characters>" in logged()["line"]
    assert "hello" not in logged()["line"]


def test_a_message_that_is_logged_whole_gives_nothing_away(logged: Logged) -> None:
    """Somebody logs a Message itself: neither number nor text is seen."""
    log.info("event", extra={"sms": Message(0, NUMBER, "hello"), "all": [Message(1, NUMBER, "hello")]})
    assert "35840" not in logged()["line"]
    assert "hello" not in logged()["line"]


@pytest.mark.parametrize(
    "text", ["1+1=2", "+123456", "2026-11-21T08:50:04+00:00", "r.1234567890", "+12 34 56"]
)
def test_what_is_no_number_is_left_alone(text: str) -> None:
    """Sums, times and message ids stay readable."""
    assert mask(text) == text


def test_the_level_holds(logged: Logged) -> None:
    """What is below the level is not written."""
    log.debug("quiet")
    log.info("loud")
    assert logged()["event"] == "loud"


def test_configuring_again_replaces_the_former_handlers(logged: Logged) -> None:
    """Each event is written once, however often logs were configured."""
    later = io.StringIO()
    configure_logs("another", "INFO", stream=later)
    log.info("event")
    assert len(later.getvalue().splitlines()) == 1
    with pytest.raises(AssertionError):
        logged()


def test_a_log_file_gets_the_same_lines(tmp_path: Path) -> None:
    """LOG_FILE stands beside the stream, in UTF-8, and is appended to."""
    path = tmp_path / "sms.log"
    path.write_text("before\n")
    stream = io.StringIO()
    configure_logs("a-service", "INFO", path, stream)
    log.info("käynnistys", extra={"to": NUMBER})
    assert path.read_text(encoding="utf-8") == "before\n" + stream.getvalue()
    assert "35840" not in path.read_text(encoding="utf-8")


def test_a_log_file_turns_over(tmp_path: Path) -> None:
    """At 10 MiB a new file begins; five older ones are kept, whole lines each."""
    path = tmp_path / "sms.log"
    configure_logs("a-service", "INFO", path, io.StringIO())
    (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, RotatingFileHandler)]
    assert (handler.maxBytes, handler.backupCount) == (10 * 1024 * 1024, 5)
    handler.maxBytes = 1_000
    for k in range(100):
        log.info("event", extra={"k": k})
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["sms.log", *(f"sms.log.{k}" for k in range(1, 6))]
    kept = [json.loads(line)["k"] for file in reversed(files) for line in (tmp_path / file).open()]
    assert kept == list(range(100 - len(kept), 100))


WRITER = """
import logging, sys
from pathlib import Path
import common.logs
common.logs.LOG_FILE_BYTES = 40_000
common.logs.configure_logs("a", "INFO", Path(sys.argv[1]), open("/dev/null", "w"))
for k in range(200):
    logging.getLogger("w").info("line", extra={"writer": sys.argv[2], "k": k})
"""


def test_processes_share_a_log_file(tmp_path: Path) -> None:
    """LOG_FILE stands in .env, which all services read. No line is lost when one of them rotates the file."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "sms.log")]
    writers = [subprocess.Popen([*command, str(writer)], cwd=ROOT) for writer in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = [json.loads(line) for file in tmp_path.iterdir() for line in file.open()]
    assert len(list(tmp_path.iterdir())) >= 3
    assert Counter(line["writer"] for line in lines) == {str(writer): 200 for writer in range(4)}


def test_a_full_disk_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The process goes on, without a traceback for each line."""
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails too
        configure_logs("a-service", "INFO", stream=full)
        log.info("one")
        log.info("two")
    assert capsys.readouterr().err == "logs can't be written to /dev/full: No space left on device\n"


def test_a_full_disk_of_the_log_file_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As that of the stream."""
    configure_logs("a-service", "INFO", Path("/dev/full"), io.StringIO())
    log.info("one")
    log.info("two")
    assert capsys.readouterr().err == "logs can't be written to /dev/full: No space left on device\n"


def test_a_log_folder_may_go_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The process goes on; lines that fall into the gap are on the stream only."""
    folder, stream = tmp_path / "logs", io.StringIO()
    folder.mkdir()
    configure_logs("a-service", "INFO", folder / "sms.log", stream)
    log.info("before")
    shutil.rmtree(folder)
    log.info("meanwhile")
    log.info("still")
    folder.mkdir()
    log.info("after")
    assert [json.loads(line)["event"] for line in (folder / "sms.log").open()] == ["after"]
    assert len(stream.getvalue().splitlines()) == 4
    told = f"logs can't be written to {folder / 'sms.log'}: No such file or directory\n"
    assert capsys.readouterr().err == told


def test_another_program_may_rotate_the_log_file(tmp_path: Path) -> None:
    """As logrotate does: by a new name, or by a copy and an empty file."""
    path = tmp_path / "sms.log"
    configure_logs("a-service", "INFO", path, io.StringIO())
    for rotate in (lambda: path.rename(tmp_path / "sms.log-1"), lambda: os.truncate(path, 0)):
        log.info("before")
        rotate()
        log.info("after")
        assert [json.loads(line)["event"] for line in path.open()] == ["after"]


@pytest.mark.parametrize("where", ["no/such/folder/sms.log", "."])
def test_a_log_file_that_cannot_be_opened_is_one_clear_line(where: str, tmp_path: Path) -> None:
    """A missing folder, or a folder itself, raises UsageError that names LOG_FILE."""
    before = logging.getLogger().handlers[:]
    with pytest.raises(UsageError, match=r"^LOG_FILE=.*: can't be opened: ") as caught:
        configure_logs("a-service", "INFO", tmp_path / where, io.StringIO())
    assert "\n" not in str(caught.value)
    assert logging.getLogger().handlers == before


def test_an_event_does_not_fill_the_log() -> None:
    """Some lines of it are written; the next one after a while says how many were left out. Others are unaffected."""
    now_s = 0.0
    flood = FloodFilter(lines=3, every_s=10.0, clock=lambda: now_s)

    def line(event: str, level: int = logging.WARNING) -> logging.LogRecord:
        return logging.LogRecord("a", level, "a.py", 1, event, None, None)

    assert [flood.filter(line("often")) for _ in range(100)] == [True] * 3 + [False] * 97
    assert flood.filter(line("seldom"))
    assert all(flood.filter(line("often", logging.INFO)) for _ in range(100))
    now_s = 10.0
    last = line("often")
    assert flood.filter(last)
    assert vars(last)["left_out"] == 97
    now_s = 20.0
    quiet = line("often")
    assert flood.filter(quiet)
    assert "left_out" not in vars(quiet)

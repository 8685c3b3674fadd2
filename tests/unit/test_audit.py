"""common/audit.py: what is written, what strangers can make it write, and where it goes."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from common.audit import AuditLimits, AuditLog, Refusal, open_audit_log, open_command_audit
from common.errors import UsageError
from common.settings import load_settings

REFUSAL = Refusal("POST /sms", 401, "abcdefgh")


class Lines:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def __call__(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        self.written.append(json.loads(line))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_refusals_of_one_kind_share_lines() -> None:
    """The first is written at once, and how many followed when the time is over; then it begins anew."""
    lines = Lines()
    audit = AuditLog("gateway", lines, AuditLimits(window_s=0.01))
    for _ in range(1_000):
        audit.refused(REFUSAL, "203.0.113.7")
    (first,) = lines.written
    assert first.pop("at").endswith("Z")
    assert first == {
        "service": "gateway",
        "event": "refused",
        "operation": "POST /sms",
        "status": 401,
        "key": "abcdefgh",
        "address": "203.0.113.7",
    }
    while len(lines.written) == 1:
        await asyncio.sleep(0.001)
    assert [line.get("more") for line in lines.written] == [None, 999]
    audit.refused(REFUSAL)
    audit.close()
    assert len(lines.written) == 3


async def test_strangers_write_a_bounded_number_of_lines() -> None:
    """Made-up keys of any number are one kind once there are many; the count of all stays right."""
    lines = Lines()
    audit = AuditLog("gateway", lines, AuditLimits(kinds=5))
    for at in range(10_000):
        audit.refused(Refusal("POST /sms", 401, f"key-{at}"), "203.0.113.7")
    audit.close()
    assert len(lines.written) == 5 + 2
    assert sum(line.get("more", 1) for line in lines.written) == 10_000


def test_a_file_is_its_owner_s_and_may_be_moved(tmp_path: Path) -> None:
    """Lines are appended; a moved file keeps its lines, and the next line begins another one."""
    path = tmp_path / "audit.log"
    for event in ("one", "two"):
        audit = open_audit_log(load_settings(audit_log=path), "gateway")
        assert audit is not None
        audit.record(event, key=None)
        audit.close()
    assert [line["event"] for line in read(path)] == ["one", "two"]
    assert "key" not in read(path)[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    audit = open_audit_log(load_settings(audit_log=path), "gateway", limits=AuditLimits(look_s=0))
    assert audit is not None
    for name in ("audit.log.1", "audit.log.2"):
        path.rename(tmp_path / name)
        audit.record("three")
        assert [line["event"] for line in read(path)] == ["three"]


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`-`; a command, whose result goes there, writes to stderr. Unless it is set, nothing is written."""
    settings = load_settings(audit_log="-")
    audit = open_audit_log(settings, "gateway")
    assert audit is not None
    audit.record("one")
    open_command_audit(settings)("two", run="a-run")
    open_command_audit(load_settings())("three")
    out, err = capsys.readouterr()
    assert json.loads(out)["event"] == "one"
    assert json.loads(err)["event"] == "two"
    assert json.loads(err)["by"].startswith("uid ")


def test_a_file_that_cannot_be_opened_is_a_mistake_of_the_operator_s(tmp_path: Path) -> None:
    """Named before anything is done."""
    settings = load_settings(audit_log=tmp_path / "nowhere" / "audit.log")
    for opens in (lambda: open_audit_log(settings, "gateway"), lambda: open_command_audit(settings)):
        with pytest.raises(UsageError, match=r"^AUDIT_LOG=.*: can't be opened: No such file or directory$"):
            opens()


def test_a_line_that_cannot_be_written_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk must not stop the alarm. The log of the service has one line for many."""
    audit = open_audit_log(load_settings(audit_log="/dev/full"), "gateway")
    assert audit is not None
    for _ in range(100):
        audit.record("one")
    assert [record.message for record in caplog.records] == ["audit_not_written"]

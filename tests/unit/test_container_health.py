"""common/health.py: the file that a container's health check looks at."""

import os
import time
from pathlib import Path

import pytest

from common.health import SILENCE_S, VARIABLE, beat, healthy


def test_a_service_is_healthy_until_it_is_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its last beat counts, and no beat is none."""
    file = tmp_path / "alive"
    monkeypatch.setenv(VARIABLE, str(file))
    assert not healthy()
    beat()
    assert healthy()
    long_ago = time.time() - SILENCE_S - 1
    os.utime(file, (long_ago, long_ago))
    assert not healthy()


def test_a_file_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The health check fails, and the log has the reason. The service still works."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone" / "alive"))
    beat()
    assert not healthy()
    assert [record.msg for record in caplog.records] == ["health_file_unwritten"]

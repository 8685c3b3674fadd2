"""`smsim scale`: bad usage is one clear line."""

import sys
from pathlib import Path

import pytest

from simulation import cli

pytestmark = pytest.mark.usefixtures("bare_environment", "process_as_before")


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["--senders", "0"], "'0' is not a whole number from 1"),
        (["--senders", "1,,2"], "'' is not a whole number from 1"),
        (["--senders", "1", "--max-senders", "5"], "not allowed with"),
        (["--messages-per-sender", "0"], "'0' is not"),
        (["--mean-processing-time", "-1"], "'-1' is not a number"),
        (["--processes", "2"], "--processes goes with --distributed"),
        (["--distributed", "--plain-max", "1"], "--plain-max goes without --distributed"),
        (["--out", "taken"], "taken: File exists: choose another --out"),
    ],
)
def test_bad_usage_is_one_line(
    args: list[str],
    wrong: str,
    bare_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one clear line, nothing measured."""
    (bare_environment / "taken").write_text("a file")
    code, error = smsim_scale(args, monkeypatch, capsys)
    assert code == 2
    assert wrong in error
    assert error.count("\n") == 1
    assert not (bare_environment / "scaling").exists()


@pytest.mark.parametrize("args", [["--senders", "1"], ["--distributed"]])
@pytest.mark.parametrize(("name", "value"), [("PROVIDER_PROFILE", "slow"), ("KEEP_FAILED", "true")])
def test_settings_that_would_change_the_comparison_are_refused(
    args: list[str],
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A profile would be for ours only; failed messages that are kept would be in a queue that must be empty."""
    monkeypatch.setenv(name, value)
    code, error = smsim_scale(args, monkeypatch, capsys)
    assert (code, error) == (2, f"smsim scale: the study compares like with like: leave {name} out\n")


def test_without_the_optional_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, error = smsim_scale(["--senders", "1"], monkeypatch, capsys)
    assert code == 2
    assert "matplotlib" in error
    assert ".[study]" in error
    assert error.count("\n") == 1


def smsim_scale(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Runs `smsim scale`; gives its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["smsim", "scale", *args])
    try:
        code = cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err

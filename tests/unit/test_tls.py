"""Trouble with a file of authorities."""

from pathlib import Path

import pytest

from common.errors import UsageError
from common.tls import tls_context


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the variable that names it."""
    with pytest.raises(UsageError, match=r"REDIS_CA_FILE=.*none\.pem: No such file"):
        tls_context("REDIS_CA_FILE", tmp_path / "none.pem")


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path) -> None:
    """So is one that is no PEM."""
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(UsageError, match=r"RABBITMQ_CA_FILE=.*bad\.pem: it is no file of certificates"):
        tls_context("RABBITMQ_CA_FILE", tmp_path / "bad.pem")

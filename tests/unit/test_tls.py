"""Trouble with a file of authorities."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UsageError
from common.tls import tls_context
from tests.certificates import EXPIRED, Certificate, make_certificate


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the variable that names it."""
    with pytest.raises(UsageError, match=r"REDIS_CA_FILE=.*none\.pem: No such file"):
        tls_context("REDIS_CA_FILE", tmp_path / "none.pem")


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path) -> None:
    """So is one that is no PEM."""
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(UsageError, match=r"RABBITMQ_CA_FILE=.*bad\.pem: it is no file of certificates"):
        tls_context("RABBITMQ_CA_FILE", tmp_path / "bad.pem")


def test_a_server_uses_its_certificate_and_key(tmp_path: Path) -> None:
    """Files that a client could connect with make a context."""
    assert make_certificate(tmp_path).files.context().cert_store_stats()


def _missing(good: Certificate, folder: Path) -> Certificate:
    return replace(good, key=folder / "none.key")


def _folder(good: Certificate, folder: Path) -> Certificate:
    return replace(good, certificate=folder)


def _exchanged(good: Certificate, _: Path) -> Certificate:
    return Certificate(good.key, good.certificate)


def _of_another(good: Certificate, folder: Path) -> Certificate:
    return replace(good, key=make_certificate(folder, "other").key)


def _expired(_: Certificate, __: Path) -> Certificate:
    return Certificate(EXPIRED, EXPIRED)


def _broken(good: Certificate, folder: Path) -> Certificate:
    (folder / "broken.pem").write_text(good.certificate.read_text()[:200] + "\n-----END CERTIFICATE-----\n")
    return replace(good, certificate=folder / "broken.pem")


def _with_passphrase(good: Certificate, folder: Path) -> Certificate:
    key = folder / "secret.key"
    command = f"openssl pkey -in {good.key} -aes256 -passout pass:secret -out {key}"
    subprocess.run(command.split(), check=True)
    return replace(good, key=key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_missing, "GATEWAY_TLS_KEY=.*none.key: can't be read: No such file or directory"),
        (_folder, "GATEWAY_TLS_CERT=.*: can't be read: Is a directory"),
        (_exchanged, r"GATEWAY_TLS_CERT=.*server.key: has no certificate \(PEM\)"),
        (_of_another, "GATEWAY_TLS_KEY=.*: is not the key of the certificate in GATEWAY_TLS_CERT="),
        (_expired, "GATEWAY_TLS_CERT=.*expired.pem: certificate has expired"),
        (_broken, "GATEWAY_TLS_CERT=.*: can't be used"),
        (_with_passphrase, "GATEWAY_TLS_KEY=.*: needs a passphrase"),
    ],
)
def test_files_that_clients_could_not_connect_with_are_a_usage_error(
    change: Callable[[Certificate, Path], Certificate], said: str, tmp_path: Path
) -> None:
    """Each names the variable and the file, when the server starts and not when its first client comes."""
    with pytest.raises(UsageError, match=said):
        change(make_certificate(tmp_path), tmp_path).files.context()

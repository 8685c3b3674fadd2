"""The stack over TLS: right certificates are taken, wrong ones refused, plain ports shut."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.stack import ROOT, Stack, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tls_stack(image: str) -> Iterator[Stack]:
    run("scripts/make-certs.sh")
    stack = Stack("tls", MEAN_PROCESSING_TIME=0.1)
    try:
        stack.up(2)
        yield stack
    finally:
        stack.close()


def tls_environment(stack: Stack, ca_file: Path) -> dict[str, object]:
    return {
        "RABBITMQ_HOST": "localhost",
        "RABBITMQ_PORT": stack.env["RABBITMQ_TLS_HOST_PORT"],
        "RABBITMQ_TLS": "true",
        "RABBITMQ_CA_FILE": ca_file,
        "REDIS_HOST": "localhost",
        "REDIS_TLS": "true",
        "REDIS_CA_FILE": ca_file,
    }


def test_a_run_goes_over_tls(tls_stack: Stack) -> None:
    """From the host and between the containers, with the authority checked."""
    environment = tls_environment(tls_stack, ROOT / "certs" / "ca.pem")
    report = tls_stack.publish("--num-messages", 300, "--wait", **environment)
    assert report["published"] == 300


@pytest.mark.parametrize("server", ["RABBITMQ", "REDIS"])
def test_a_client_with_the_wrong_authority_is_refused(tls_stack: Stack, server: str, tmp_path: Path) -> None:
    """A certificate that somebody else signed is not trusted, and the error says which setting to look at."""
    wrong = tmp_path / "wrong.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=wrong"
    run(*command.split(), "-keyout", str(tmp_path / "wrong.key"), "-out", str(wrong))
    environment = tls_environment(tls_stack, ROOT / "certs" / "ca.pem")
    environment[f"{server}_CA_FILE"] = wrong
    done = subprocess.run(
        [sys.executable, "producer.py", "--num-messages", "1", "--connect-timeout", "5"],
        cwd=ROOT,
        env=tls_stack.host_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{server}_CA_FILE" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("hello", [b"AMQP\x00\x00\x09\x01", b"PING\r\n"])
def test_plain_ports_are_shut(tls_stack: Stack, hello: bytes) -> None:
    """Whoever speaks plainly gets no answer in kind."""
    port = tls_stack.rabbit_port if hello.startswith(b"AMQP") else tls_stack.redis_port
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(hello)
            answer = plain.recv(100)
    except OSError:
        answer = b""
    assert b"PONG" not in answer
    assert b"NOAUTH" not in answer
    assert b"version_major" not in answer

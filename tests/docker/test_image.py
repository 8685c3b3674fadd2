"""The image: small, without tools, run by nobody special."""

import json
import os

import pytest

from tests.docker.stack import Stack, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BASE = os.environ.get("PYTHON_IMAGE", "python:3.13-slim")
LARGEST_ADDITION_BYTES = 150 * 1000 * 1000


def test_it_adds_less_than_150_mb_to_its_base(image: str) -> None:
    """Dependencies and code; plotting and development stay out."""
    sizes = [json.loads(run("docker", "image", "inspect", name).stdout)[0]["Size"] for name in (image, BASE)]
    assert sizes[0] - sizes[1] < LARGEST_ADDITION_BYTES


@pytest.mark.parametrize("tool", ["gcc", "poetry", "pytest", "mypy"])
def test_it_holds_no_tools(image: str, tool: str) -> None:
    """Compilers, Poetry and what tests need are not there."""
    assert run("docker", "run", "--rm", image, "sh", "-c", f"command -v {tool}", check=False).returncode != 0


def test_it_runs_as_an_unprivileged_user(image: str) -> None:
    """Root is not used."""
    assert run("docker", "run", "--rm", image, "id", "-u").stdout.strip() == "10001"


def test_it_is_labelled(image: str) -> None:
    """The OCI labels say what it is."""
    labels = json.loads(run("docker", "image", "inspect", image).stdout)[0]["Config"]["Labels"]
    assert {"title", "description", "licenses", "version", "revision"} <= {
        name.removeprefix("org.opencontainers.image.") for name in labels
    }


def test_no_container_starts_without_a_secret(image: str) -> None:
    """Docker refuses it and names the file; docs/operations.md says what to do."""
    stack = Stack()
    (stack.secrets / "redis_password").unlink()
    try:
        done = run(*stack._compose, "up", "-d", "redis", env=stack.env, check=False)
        assert done.returncode != 0
        assert str(stack.secrets / "redis_password") in done.stderr
    finally:
        stack.close()

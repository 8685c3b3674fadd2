"""The passwords of the compose stack: how they are made, and how the servers get them."""

import hashlib
import json
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.docker.stack import SECRETS

ROOT = Path(__file__).parent.parent.parent
# A file has one line; a password in it may have any other character.
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cc", "Cs"]), min_size=1
)
ODD = [
    "a b",
    "it's",
    'say"hi',
    "back\\slash",
    "$HOME`x`$(x)",
    "#lead",
    "ümlaut",
    "'quoted'",
    " edges ",
    "a,b;c&d|e",
]


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.yaml.decode((ROOT / name).read_bytes())
    return found


def output(command: Sequence[str | Path], **env: str) -> str:
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", **env}, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def redis_configuration(folder: Path, password: str) -> str:
    """What the command of the service redis gives to redis-server, here a program that prints it."""
    (folder / "redis-server").write_text("#!/bin/sh\ncat\n")
    (folder / "redis-server").chmod(0o755)
    (folder / "password").write_text(password + "\n")
    command = [part.replace("$$", "$") for part in compose()["services"]["redis"]["command"]]
    return output(
        command, PATH=f"{folder}:/usr/bin:/bin", REDIS_PASSWORD_FILE=str(folder / "password"), REDIS_CONFIG=""
    )


@pytest.mark.parametrize("password", ODD)
def test_redis_takes_any_password_as_it_is(password: str, tmp_path: Path) -> None:
    """It gets the SHA-256, so that no character has a meaning in its configuration."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = redis_configuration(tmp_path, password).splitlines()
    assert lines[0] == f"user default on #{digest} ~* &* +@all"
    assert password not in "\n".join(lines[1:])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=PASSWORDS | st.sampled_from(ODD))
@example(password='back\\slash and "quotes"')
def test_rabbitmq_takes_any_password_as_it_is(password: str, tmp_path: Path) -> None:
    """The definitions are JSON with exactly that password for each user."""
    for name in SECRETS:
        (tmp_path / name).write_text(password + "\n")
    made = json.loads(output([ROOT / "deploy/rabbitmq/definitions.sh", tmp_path, "admin"]))
    assert {user["password"] for user in made["users"]} == {password}
    assert [user["name"] for user in made["users"] if user["tags"]] == ["admin"]


def test_permissions_follow_the_name_of_the_queues(tmp_path: Path) -> None:
    """A dot in it stands for itself. Only the sender reads, and only its own queues."""
    for name in SECRETS:
        (tmp_path / name).write_text("x")
    made = json.loads(output([ROOT / "deploy/rabbitmq/definitions.sh", tmp_path, "admin", 'v"h', "my.sms"]))
    permissions = {entry.pop("user"): entry for entry in made["permissions"]}
    assert made["vhosts"] == [{"name": 'v"h'}]
    queues = "^my[.]sms([.].*)?$"
    assert permissions["sender"] == {
        "vhost": 'v"h',
        "configure": queues,
        "write": "^(amq[.]default|my[.]sms([.].*)?)$",
        "read": queues,
    }
    assert permissions["producer"] | {"vhost": ""} == {
        "vhost": "",
        "configure": "^$",
        "write": "^amq[.]default$",
        "read": "^$",
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make env` works on."""
    (tmp_path / "scripts").mkdir()
    for name in ("make-env.sh", "from-env.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    shutil.copy(ROOT / ".env.example", tmp_path)
    return tmp_path


def made_env(checkout: Path, code: int = 0) -> str:
    """Runs `make env` and gives what it said."""
    done = subprocess.run(
        [checkout / "scripts/make-env.sh"], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_make_env_makes_a_password_for_every_secret(checkout: Path) -> None:
    """Different ones, in a folder that its owner alone enters; a second call changes nothing."""
    made_env(checkout)
    files = {path.name: path.read_text() for path in (checkout / "secrets").iterdir()}
    assert files.keys() == set(SECRETS)
    assert len(set(files.values())) == len(files)
    assert all(len(bytes.fromhex(value.strip())) == 24 for value in files.values())
    assert stat.S_IMODE((checkout / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600
    assert made_env(checkout) == ".env exists: not changed\n"
    assert files == {path.name: path.read_text() for path in (checkout / "secrets").iterdir()}


def test_every_secret_of_the_stack_is_one_that_make_env_makes() -> None:
    """In the compose file and in its overrides."""
    files = ("docker-compose.yml", "docker-compose.cluster.yml")
    named = {name: one["file"] for file in files for name, one in compose(file)["secrets"].items()}
    assert named == {name: f"${{SECRETS_FOLDER:-./secrets}}/{name}" for name in SECRETS}


def test_make_env_takes_over_the_passwords_of_an_older_env(checkout: Path) -> None:
    """The stack goes on with them. What to change in .env is said line by line."""
    passwords = "REDIS_PASSWORD=abc123\nGATEWAY_API_KEY=0123-4567_89.ab\nGRAFANA_PASSWORD=abc\n"
    (checkout / ".env").write_text(f"RABBITMQ_USER=smsim\n{passwords}")
    said = made_env(checkout)
    assert (checkout / "secrets/redis_password").read_text() == "abc123\n"
    assert (checkout / "secrets/gateway_api_key").read_text() == "0123-4567_89.ab\n"
    assert ".env: replace the line REDIS_PASSWORD= by REDIS_PASSWORD_FILE=secrets/redis_password\n" in said
    assert ".env: remove the line GRAFANA_PASSWORD=\n" in said


def test_make_env_takes_over_no_quoted_password(checkout: Path) -> None:
    """What quotes and escapes of .env mean is left to its owner."""
    (checkout / ".env").write_text("REDIS_PASSWORD='a b'\n")
    assert "write the REDIS_PASSWORD of .env into the file secrets/redis_password" in made_env(
        checkout, code=1
    )
    assert not (checkout / "secrets/redis_password").exists()


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.cluster.yml"])
def test_no_container_has_a_secret_in_its_environment(name: str) -> None:
    """Secrets are files: `docker inspect` shows the environment."""
    for service in compose(name)["services"].values():
        for variable in service.get("environment", {}):
            assert not variable.endswith(("PASSWORD", "PASS", "SECRET", "API_KEY", "COOKIE")), variable


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.cluster.yml"])
def test_every_container_has_bounds(name: str) -> None:
    """Of memory, processes and files; no privileges."""
    bounds = {"mem_limit", "cpus", "pids_limit", "ulimits", "cap_drop", "security_opt", "read_only"}
    for service in compose(name)["services"].values():
        if "image" in service:
            assert bounds <= service.keys()

"""A compose stack for a test: a project of its own, with a random password and free host ports."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from redis import Redis

from tests.runners import free_port

ROOT = Path(__file__).parent.parent.parent
COMMAND_TIMEOUT_S = 600
SERVICES = ("producer", "sender", "monitor", "gateway")
SECRETS = [
    *("rabbitmq_password", "rabbitmq_erlang_cookie", "redis_password"),
    *(f"{service}_password" for service in SERVICES),
    *("gateway_api_key", "callback_secret", "grafana_password"),
]


def run(
    *command: str, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project's root; on failure raises with all that it said."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def compose_command() -> list[str]:
    """docker-compose where it is installed, else the plugin."""
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


class Stack:
    """The compose file, with overrides, as one project."""

    def __init__(self, *overrides: str, **settings: object) -> None:
        self.project = f"smsim-test-{secrets.token_hex(3)}"
        files = ["docker-compose.yml", *(f"docker-compose.{name}.yml" for name in overrides)]
        self._compose = [*compose_command(), "-p", self.project, *(a for f in files for a in ("-f", f))]
        self.rabbit_port, self.redis_port = free_port(), free_port()
        self.gateway_port = free_port()
        self.password = secrets.token_hex(8)
        self.secrets = Path(tempfile.mkdtemp(prefix="smsim-secrets-"))
        for name in SECRETS:
            (self.secrets / name).write_text(self.password + "\n")
        mine: dict[str, object] = {
            "RABBITMQ_USER": "smsim",
            "SECRETS_FOLDER": self.secrets,
            "GATEWAY_HOST_PORT": self.gateway_port,
            "RABBITMQ_HOST_PORT": self.rabbit_port,
            "REDIS_HOST_PORT": self.redis_port,
            "RABBITMQ_UI_HOST_PORT": free_port(),
            "RABBITMQ_TLS_HOST_PORT": free_port(),
            "RABBITMQ_UI_TLS_HOST_PORT": free_port(),
            "MONITOR_UPDATE_INTERVAL": 1,
            **settings,
        }
        self.env = {**os.environ, **{name: str(value) for name, value in mine.items()}}

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Runs a compose command; gives what it printed."""
        return run(*self._compose, *arguments, env=self.env, check=check).stdout

    def http(self) -> aiohttp.ClientSession:
        """A client of the gateway, with its key."""
        headers = {"X-API-Key": self.password}
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.gateway_port}", headers=headers)

    def up(self, senders: int, *more: str) -> None:
        self.compose("up", "-d", *more, "--scale", f"sender={senders}")

    def down(self, *more: str) -> None:
        self.compose("down", *more)

    def close(self) -> None:
        """Removes all of it."""
        self.down("--volumes", "--timeout", "10")
        shutil.rmtree(self.secrets)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What the engine knows of a service's containers."""
        ids = self.compose("ps", "-q", service).split()
        return json.loads(run("docker", "inspect", *ids).stdout) if ids else []

    def kill_main_process(self, service: str) -> str:
        """SIGKILL from the host, which restart policies don't take for a manual stop; gives the container's id."""
        container = self.containers(service)[0]
        os.kill(container["State"]["Pid"], signal.SIGKILL)
        return str(container["Id"])

    def host_environment(self, **more: object) -> dict[str, str]:
        """What a program on the host is given to reach the stack."""
        mine = {
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_PASSWORD": self.password,
            "REDIS_PASSWORD": self.password,
            "RABBITMQ_PORT": self.rabbit_port,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": self.redis_port,
            **more,
        }
        return {**self.env, **{name: str(value) for name, value in mine.items()}}

    def start_producer(self, *arguments: object, **env: object) -> subprocess.Popen[str]:
        """`python producer.py` on the host."""
        command = [sys.executable, "producer.py", *map(str, arguments)]
        environment = self.host_environment(**env)
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def publish(self, *arguments: object, **env: object) -> dict[str, Any]:
        """Publishes from the host; gives the closing JSON line."""
        producer = self.start_producer(*arguments, **env)
        out, err = producer.communicate(timeout=COMMAND_TIMEOUT_S)
        assert producer.returncode == 0, err
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report

    def statistics(self, run_id: str) -> dict[str, Any]:
        """`python monitor.py --once` on the host."""
        command = [sys.executable, "monitor.py", "--once", "--run", run_id]
        found: dict[str, Any] = json.loads(run(*command, env=self.host_environment()).stdout)
        return found

    def settled(self, run_id: str, count: int) -> bool:
        """Whether all of a run is sent or failed, and nothing counted twice."""
        stats = self.statistics(run_id)
        done = int(stats["sent"]) + int(stats["failed"])
        assert done <= count
        return done == count and stats["published"] == count and stats["queued"] == stats["sending"] == 0

    def counter(self, run_id: str, field: str) -> int:
        """One counter of a run, straight from Redis; 0 while it is not there."""
        value: Any = self.redis().hget(f"sms:run:{run_id}", field)
        return int(value or 0)

    def redis(self) -> Redis:
        return Redis("127.0.0.1", self.redis_port, password=self.password, decode_responses=True)

"""Where a test's server runs: as a private process of an installed program, or in a container."""

import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

_STOP_DEADLINE_S = 30
# Into how many parts the ports are divided among workers.
_PORTS_SHARES = 16
# Debian puts servers where a user's PATH doesn't look. Its /usr/sbin/rabbitmq-server changes to another user when root,
# so RabbitMQ's own script, in /usr/lib, comes first.
_SEARCH = ["/usr/lib/rabbitmq/bin", *os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin"]


class ServersUnavailableError(RuntimeError):
    """There is neither the program nor its image; the text says what to install."""


class Runner(ABC):
    """One server on a fixed port, which may be ended and started again with its data kept, until `close`."""

    host = "127.0.0.1"
    port: int

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The server's own process while it runs."""

    @abstractmethod
    def start(self) -> None:
        """Begin; whether the server answers yet is the caller's to find out."""

    @abstractmethod
    def stop(self) -> None:
        """End it as its operator would, and wait for that."""

    @abstractmethod
    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""

    @abstractmethod
    def run(self, *command: str) -> str:
        """The output of a command that is run beside the server, such as rabbitmqctl."""

    @abstractmethod
    def log(self) -> str:
        """The end of what the server printed."""

    @abstractmethod
    def close(self) -> None:
        """End it and remove all it leaves behind; more than once does no harm."""


class Process(Runner):
    """A private instance of an installed program, in a temporary folder that is removed at the end.

    `beside` is a command that must run while the server does, and outlives its restarts.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        beside: Sequence[str] | None = None,
    ) -> None:
        self.port = port
        self._folder = folder
        self._command = command
        # Settings meant for the user's own servers must not reach ours.
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))
        }
        self._env = {**inherited, "HOME": str(folder), **(env or {})}
        self._beside_command = beside
        self._beside: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server and self._server.poll() is None else None

    def start(self) -> None:
        if self.pid is not None:
            return
        if self._beside_command and self._beside is None:
            self._beside = self._spawn(self._beside_command)
        self._server = self._spawn(self._command)

    def stop(self) -> None:
        _end(self._server)

    def kill(self) -> None:
        if self._server and self.pid is not None:
            # Not yet reaped, so the group is still ours: this takes the server's helpers along.
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def run(self, *command: str) -> str:
        program, *arguments = command
        return subprocess.run(
            [find_program(program), *arguments],
            env=self._env,
            cwd=self._folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "log").read_text(errors="replace")[-2000:]
        return ""

    def close(self) -> None:
        self.kill()
        _end(self._beside)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # A session of its own keeps Ctrl-C in the terminal from ending the server before the tests are done with it.
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Container(Runner):
    """A container with the server's port on a fixed port of the host, so that a restart keeps it.

    Raises:
        ServersUnavailableError: the image is not here and can't be had.
    """

    def __init__(
        self, image: str, inner_port: int, env: Mapping[str, str] | None = None, command: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        try:
            self._made = (
                DockerContainer(image).with_bind_ports(inner_port, self.port).with_envs(**(env or {}))
            )
            client = self._made.get_docker_client().client
            _have_image(client, image)
            if (
                not testcontainers_config.ryuk_disabled
            ):  # the container that removes what a killed test run left
                _have_image(client, testcontainers_config.ryuk_image)
        except DockerException as error:
            raise ServersUnavailableError(
                f"Docker can't have the image {image}, or that of its helper: {error}"
            ) from error
        if command:
            self._made.with_command(list(command))
        self._inner: Any = None

    @property
    def pid(self) -> int | None:
        if self._inner is None:
            return None
        self._inner.reload()
        return int(self._inner.attrs["State"]["Pid"]) or None

    def start(self) -> None:
        if self._inner is None:
            self._inner = self._made.start().get_wrapped_container()
            host = self._made.get_container_host_ip()
            # The port is published for IPv4; "localhost" may come out as ::1.
            self.host = "127.0.0.1" if host == "localhost" else host
        else:
            self._inner.start()

    def stop(self) -> None:
        if self._inner is not None:
            self._inner.stop(timeout=_STOP_DEADLINE_S)

    def kill(self) -> None:
        if self.pid is not None:
            self._inner.kill()
            self._inner.wait()

    def run(self, *command: str) -> str:
        code, output = self._inner.exec_run(list(command), stderr=False)
        if code:
            raise subprocess.CalledProcessError(code, command, output)
        return bytes(output).decode()

    def log(self) -> str:
        return bytes(self._inner.logs(tail=30)).decode(errors="replace") if self._inner is not None else ""

    def close(self) -> None:
        if self._inner is not None:
            self._made.stop()
            self._inner = None


def choose(container: Callable[[], Runner], process: Callable[[], Runner]) -> Runner:
    """A container where Docker can have one, else a private process; SMSIM_TEST_SERVERS forces one way."""
    forced = os.environ.get("SMSIM_TEST_SERVERS", "")
    if forced not in ("", "local", "docker"):
        raise ValueError(f"SMSIM_TEST_SERVERS={forced!r}: local or docker")
    if forced == "docker" or (not forced and docker_answers()):
        try:
            return container()
        except ServersUnavailableError:
            if forced:
                raise
    return process()


@functools.cache
def docker_answers() -> bool:
    """Whether there is a Docker engine to talk to."""
    try:
        return bool(DockerClient(timeout=10).client.ping())
    except DockerException:
        return False


def free_port() -> int:
    """A port that is free, that no other worker of pytest-xdist takes, and that this one is not given again.

    It lies below the ports that systems give to outgoing connections (32768 and up on Linux): from that range, another
    connection may take the port of a killed server, and a client that keeps trying it may even connect to itself.
    """
    while True:
        port = next(_ports())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this worker, in an order of its own: two test runs on one machine are not to meet."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORTS_SHARES
    ports = list(range(20_000 + worker, 32_000, _PORTS_SHARES))
    return itertools.cycle(random.Random(os.urandom(8)).sample(ports, len(ports)))


def temporary_folder(name: str) -> Path:
    """A new folder for one server's data; `Process.close` removes it."""
    return Path(tempfile.mkdtemp(prefix=f"smsim-{name}-"))


def find_program(name: str) -> str:
    """The full path of an installed program.

    Raises:
        ServersUnavailableError: it is not installed.
    """
    path = shutil.which(name, path=os.pathsep.join(_SEARCH))
    if path is None:
        raise ServersUnavailableError(
            f"{name} is not installed and no Docker engine answers: run `make servers`, or install the packages "
            "redis-server and rabbitmq-server"
        )
    return path


def _have_image(client: Any, image: str) -> None:
    """Pull the image unless it is here."""
    try:
        client.images.get(image)
    except DockerException:
        client.images.pull(image)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM, and SIGKILL for what does not heed it in time."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Runs a test's server: as a private process of an installed program, or in a container."""

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

from common.errors import SmsimError

_STOP_DEADLINE_S = 30
# The ports are divided into this many shares, one for each worker.
_PORTS_SHARES = 16
# Debian installs servers outside a user's PATH. Its /usr/sbin/rabbitmq-server, which root has on PATH, switches to
# another user when run as root, so RabbitMQ's own scripts come before that folder. The rest of PATH comes first.
_DEBIAN_SBIN = ("/usr/sbin", "/sbin")
_SEARCH = [
    *(folder for folder in os.get_exec_path() if folder not in _DEBIAN_SBIN),
    "/usr/lib/rabbitmq/bin",
    *_DEBIAN_SBIN,
    "/usr/local/sbin",
    "/opt/homebrew/sbin",
]


class ServersUnavailableError(SmsimError):
    """Neither the program nor its image is available. The text says what to install."""


class Runner(ABC):
    """One server on a fixed port. It may be restarted with its data until `close`."""

    host = "127.0.0.1"
    port: int

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The server's process id; None while it is down."""

    @abstractmethod
    def start(self) -> None:
        """Starts the server. The caller waits until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it gracefully and waits for the end."""

    @abstractmethod
    def kill(self) -> None:
        """Kills it with SIGKILL."""

    @abstractmethod
    def run(self, *command: str) -> str:
        """Runs a command beside the server, such as rabbitmqctl, and returns its output."""

    @abstractmethod
    def log(self) -> str:
        """The end of the server's output."""

    @abstractmethod
    def close(self) -> None:
        """Ends it and removes its files. May be called again."""


class Process(Runner):
    """A private instance of an installed program, in a temporary folder that `close` removes.

    `beside` is a helper command that runs until `close`, also while the server is down.
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
        # Settings of the user's own servers must not reach this one.
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
            # The process is not reaped yet, so the group id is still valid. This kills the server's helpers, too.
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
        # In its own session, Ctrl-C in the terminal does not end the server before the tests have ended.
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
    """A container with the server's port published on a fixed port of the host, which a restart keeps.

    Raises:
        ServersUnavailableError: The image is missing and cannot be pulled.
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
            ):  # removes the containers of a test run that was killed
                _have_image(client, testcontainers_config.ryuk_image)
        except DockerException as error:
            raise ServersUnavailableError(
                f"Docker cannot pull the image {image} or that of its helper: {error}"
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
    """A container if Docker answers and has the image, else a private process. SMSIM_TEST_SERVERS selects one."""
    forced = os.environ.get("SMSIM_TEST_SERVERS", "")
    if forced not in ("", "local", "docker"):
        raise ValueError(f"SMSIM_TEST_SERVERS={forced!r}: local or docker")
    if forced == "docker" or (not forced and docker_answers()):
        try:
            return container()
        except ServersUnavailableError as no_container:
            if forced:
                raise
            return _process_instead(process, no_container)
    return process()


def _process_instead(process: Callable[[], Runner], no_container: ServersUnavailableError) -> Runner:
    try:
        return process()
    except ServersUnavailableError as no_process:
        raise ServersUnavailableError(f"{no_process}. {no_container}") from None


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine answers."""
    try:
        return bool(DockerClient(timeout=10).client.ping())
    except DockerException:
        return False


def free_port() -> int:
    """A free port, from this pytest-xdist worker's own share of ports.

    It is below the range for outgoing connections (32768 and up on Linux). In that range, another connection could take
    the port of a killed server, and a client that retries could connect to itself.
    """
    while True:
        port = next(_ports())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this worker, in random order, so that two test runs on one machine rarely meet."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORTS_SHARES
    ports = list(range(20_000 + worker, 32_000, _PORTS_SHARES))
    return itertools.cycle(random.Random(os.urandom(8)).sample(ports, len(ports)))


def temporary_folder(name: str) -> Path:
    """A new folder for one server's data, which `Process.close` removes."""
    return Path(tempfile.mkdtemp(prefix=f"smsim-{name}-"))


def find_program(name: str) -> str:
    """The full path of an installed program.

    Raises:
        ServersUnavailableError: It is not installed.
    """
    path = shutil.which(name, path=os.pathsep.join(_SEARCH))
    if path is None:
        raise ServersUnavailableError(
            f"{name} is not installed, and Docker cannot provide it: run `make servers`, or install the packages "
            "redis-server and rabbitmq-server"
        )
    return path


def _have_image(client: Any, image: str) -> None:
    """Pulls the image unless it is present."""
    try:
        client.images.get(image)
    except DockerException:
        client.images.pull(image)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """Sends SIGTERM, and SIGKILL after a deadline."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

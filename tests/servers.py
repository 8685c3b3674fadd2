"""Private Redis and RabbitMQ servers for tests and studies.

They run in containers where a Docker engine answers and has the images, else as private instances of the installed
programs. They never use the user's own servers. SMSIM_TEST_SERVERS=local or =docker selects one way.

    with RabbitServer() as rabbit:
        ...  # rabbit.host, rabbit.port, rabbit.user, rabbit.password
        rabbit.kill()
        rabbit.start()  # the same port, the same data
"""

import atexit
import json
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pika
import pika.exceptions
import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.settings import Settings
from tests.runners import Container, Process, Runner, choose, find_program, free_port, temporary_folder

_START_DEADLINE_S = 120.0


class Server(ABC):
    """A server with an address that may be killed and restarted."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        atexit.register(self.close)  # for a test run that ends before its fixtures do

    @property
    def host(self) -> str:
        """The address that clients connect to."""
        return self._runner.host

    @property
    def port(self) -> int:
        """The port that clients connect to. A restart keeps it."""
        return self._runner.port

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is down."""
        return self._runner.pid

    def start(self) -> None:
        """Starts it and waits until it answers. Does nothing if it runs.

        Raises:
            RuntimeError: It ended or did not answer in time. The text has the end of its log.
        """
        self._runner.start()
        ends = time.monotonic() + _START_DEADLINE_S
        while not self._answers():
            if self.pid is None or time.monotonic() > ends:
                log = self._runner.log()
                self._runner.kill()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it gracefully. `start` restarts it with its data."""
        self._runner.stop()

    def kill(self) -> None:
        """Kills it with SIGKILL. `start` restarts it with its durable data."""
        self._runner.kill()

    def close(self) -> None:
        """Ends it and removes its data."""
        self._runner.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves clients now."""


class RedisServer(Server):
    """Redis that writes to disk before it answers (AOF, fsync always).

    With `folder` for its data, or `env` for its environment, it is a private process, never a container. `more` are
    further options of its command line.
    """

    def __init__(
        self,
        password: str | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self.password = password
        options = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *more]
        if password:
            options += ["--requirepass", password]
        if folder or env:
            super().__init__(_redis_process(options, folder, env))
        else:
            super().__init__(choose(lambda: _redis_container(options), lambda: _redis_process(options)))

    @property
    def environment(self) -> dict[str, object]:
        """The variables with which the product connects; its password is not among them."""
        return {"REDIS_HOST": self.host, "REDIS_PORT": self.port}

    @property
    def settings(self) -> Settings:
        """Settings with which the product connects."""
        given: dict[str, Any] = {name.lower(): value for name, value in self.environment.items()}
        return Settings(redis_password=self.password, **given)

    def observer(self, db: int) -> "redis.Redis":
        """A client without product code, which decodes what it reads."""
        return redis.Redis(self.host, self.port, db=db, decode_responses=True)

    def async_observer(self, db: int) -> "redis.asyncio.Redis":
        """A client without product code, which fails at once when Redis does not answer."""
        once = redis.asyncio.retry.Retry(NoBackoff(), 0)
        return redis.asyncio.Redis(host=self.host, port=self.port, db=db, socket_timeout=5, retry=once)

    def flush(self) -> None:
        """Deletes all keys."""
        with self._client() as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except (
            redis.ConnectionError,
            redis.TimeoutError,
        ):  # ConnectionError also means that it is still loading
            return False

    def _client(self) -> redis.Redis:
        # redis-py would retry, and wait a second and more between attempts.
        once = Retry(NoBackoff(), 0)
        return redis.Redis(self.host, self.port, password=self.password, socket_timeout=60, retry=once)


class RabbitServer(Server):
    """RabbitMQ with the user guest and no plugins, in `runner` or in the one that `choose` finds."""

    user = "guest"
    password = "guest"

    def __init__(self, runner: Runner | None = None) -> None:
        super().__init__(runner or choose(_rabbit_container, rabbit_process))

    def ctl(self, *arguments: str) -> str:
        """The output of `rabbitmqctl`, which takes some seconds.

        Raises:
            subprocess.CalledProcessError: The command failed.
        """
        return self._runner.run("rabbitmqctl", "--quiet", *arguments)

    def queue_depths(self, *names: str) -> dict[str, int]:
        """The number of ready AMQP messages in each existing queue, of those named or of all.

        Unacked messages do not count. Without names, rabbitmqctl lists the queues, which takes some seconds.
        """
        # rabbitmqctl's figures are up to 5 s old for quorum queues; those of a passive declare are current.
        found = names or [
            queue["name"] for queue in json.loads(self.ctl("list_queues", "name", "--formatter", "json"))
        ]
        depths = {}
        with self._connection() as connection:
            for name in found:
                channel = connection.channel()
                try:
                    depths[name] = channel.queue_declare(name, passive=True).method.message_count
                except pika.exceptions.ChannelClosedByBroker as error:
                    if error.reply_code != 404:
                        raise
        return depths

    def sync_queues(self) -> None:
        """Makes the queues declared so far survive `kill`. Takes some seconds.

        RabbitMQ writes a new quorum queue's name to disk up to a second after its declaration. Killed before that, it
        restarts with the queue but without its messages and leader (seen on 3.10; rabbitmq-server #15725).
        """
        self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()], ok.")

    def delete_queues(self, *names: str) -> None:
        """Deletes these queues and their messages."""
        with self._connection() as connection:
            for name in names:
                connection.channel().queue_delete(name)

    def _answers(self) -> bool:
        # Half a handshake by hand: pika logs an error for every attempt before the server is up.
        try:
            with socket.create_connection((self.host, self.port), timeout=60) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def _connection(self) -> pika.BlockingConnection:
        credentials = pika.PlainCredentials(self.user, self.password)
        return pika.BlockingConnection(
            pika.ConnectionParameters(self.host, self.port, credentials=credentials)
        )


def _redis_container(options: list[str]) -> Runner:
    image = os.environ.get("REDIS_IMAGE") or "redis:8"
    return Container(image, 6379, command=["redis-server", *options])


def _redis_process(
    options: list[str], folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Runner:
    program, port, folder = find_program("redis-server"), free_port(), folder or temporary_folder("redis")
    place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    return Process(folder, port, [program, *place, *options], env)


def _rabbit_container() -> Runner:
    image = os.environ.get("RABBITMQ_IMAGE") or "rabbitmq:4.3-management"
    return Container(image, 5672, {"RABBITMQ_DEFAULT_USER": "guest", "RABBITMQ_DEFAULT_PASS": "guest"})


def rabbit_process(
    host: str = "127.0.0.1",
    port: int | None = None,
    names_port: int | None = None,
    env: Mapping[str, str] | None = None,
    starts_epmd: bool = True,
) -> Process:
    """RabbitMQ as a private process at a loopback address.

    Erlang's epmd, at `names_port`, is the name server of its nodes; several nodes may share one.
    """
    program, epmd = find_program("rabbitmq-server"), find_program("epmd")
    port, folder = port or free_port(), temporary_folder("rabbit")
    epmd_port = str(names_port or free_port())
    (folder / "rabbitmq.conf").touch()
    (folder / "plugins").write_text("[].\n")
    node_env = {
        "RABBITMQ_NODENAME": f"smsim-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": host,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),  # instead of the one in /etc
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": epmd_port,
        "ERL_CRASH_DUMP_SECONDS": "0",
        # RabbitMQ's script then replaces itself with the server, so that a kill of our child kills the server.
        "RUNNING_UNDER_SYSTEMD": "true",
        **(env or {}),
    }
    # Erlang would start epmd as a daemon that outlives the server. In the foreground, we can end it.
    beside = [epmd, "-port", epmd_port, "-address", "127.0.0.1"] if starts_epmd else None
    process = Process(folder, port, [program], node_env, beside)
    process.host = host
    return process

"""Servers that some faults need: with a disk that fills up, a clock that jumps, or more nodes."""

import contextlib
import json
import resource
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff

from tests.chaos.clock import Clock
from tests.runners import Process, find_program, free_port, temporary_folder
from tests.servers import RabbitServer, RedisServer, rabbit_process

_DISK_BYTES = 256 * 1024 * 1024
# A retry that is on its way to its lane when the node that leads the lane dies is sent there again after this time,
# in ms: 180,000 by default, for which such messages, and those behind them, would wait.
_ADVANCED_CONFIG = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}].\n"


class SmallDiskRedis(RedisServer):
    """Redis on its own small tmpfs, which can be filled up.

    Where a tmpfs cannot be mounted, a limit on the file size replaces it, and `full_by` is "file size limit".
    """

    def __init__(self) -> None:
        self._place = temporary_folder("disk")
        self._mounted = _mount(self._place)
        self._filler = self._place / "filler"
        folder = self._place / "redis"
        folder.mkdir()
        super().__init__(folder=folder)

    @property
    def full_by(self) -> str:
        """How the disk is filled here."""
        return "small disk" if self._mounted else "file size limit"

    def fill(self) -> None:
        """Makes all further writes fail."""
        if self._mounted:
            with self._filler.open("wb", buffering=0) as file:
                for block in (1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):  # no space left
                        while file.write(bytes(block)) == block:
                            pass
        elif self.pid is not None:
            largest = max(file.stat().st_size for file in self._place.rglob("*.aof"))
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (largest, largest))

    def free(self) -> None:
        """Makes writes succeed again."""
        self._filler.unlink(missing_ok=True)  # the limit ends with its process

    def close(self) -> None:
        super().close()
        if self._mounted:
            subprocess.run(["umount", self._place], check=True)
            self._mounted = False
        shutil.rmtree(self._place, ignore_errors=True)


class ClockedRedis(RedisServer):
    """Redis with a wall clock that `clock` moves. Raises NoCompilerError."""

    def __init__(self) -> None:
        self._place = temporary_folder("clock")
        self.clock = Clock(self._place)
        super().__init__(env=self.clock.env)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._place, ignore_errors=True)


class SentinelRedis(RedisServer):
    """A primary, its replica, and three Sentinels. As a server, it is the first primary.

    A primary takes writes only while a replica follows it.
    """

    _NAME = "mymaster"
    _OPTIONS = ("--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0")

    def __init__(self) -> None:
        self._place = temporary_folder("sentinels")
        folders = {name: self._place / name for name in ("one", "two", "a", "b", "c")}
        for folder in folders.values():
            folder.mkdir()
        super().__init__(folder=folders["one"], more=self._OPTIONS)
        self._servers = (self, RedisServer(folder=folders["two"], more=self._OPTIONS))
        self._sentinels = [self._sentinel(folders[name]) for name in ("a", "b", "c")]
        self._addresses = [("127.0.0.1", process.port) for process in self._sentinels]
        options = {"socket_timeout": 1, "retry": redis.retry.Retry(NoBackoff(), 0)}
        self._watch: Any = redis.sentinel.Sentinel(self._addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    @property
    def environment(self) -> dict[str, object]:
        sentinels = ",".join(f"{host}:{port}" for host, port in self._addresses)
        return {"REDIS_SENTINELS": sentinels, "REDIS_SENTINEL_MASTER": self._NAME}

    def observer(self, db: int) -> redis.Redis:
        found: redis.Redis = self._watch.master_for(self._NAME, db=db, decode_responses=True)
        return found

    def async_observer(self, db: int) -> redis.asyncio.Redis:
        once = redis.asyncio.retry.Retry(NoBackoff(), 0)
        options = {"socket_timeout": 1, "retry": once}
        watch = redis.asyncio.sentinel.Sentinel(self._addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        found: redis.asyncio.Redis = watch.master_for(self._NAME, db=db, socket_timeout=5, retry=once)
        return found

    @property
    def primary(self) -> RedisServer:
        """What the Sentinels name as the primary. Raises redis.ConnectionError during a failover."""
        _, port = self._watch.discover_master(self._NAME)
        return next(server for server in self._servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other server."""
        return next(server for server in self._servers if server is not self.primary)

    def start(self) -> None:
        """Starts what does not run. Returns once the replica follows the primary and the Sentinels know both."""
        is_new = all(process.pid is None for process in self._sentinels)
        primary = self if is_new else self.primary
        for server in self._servers:
            if server.pid is None:
                RedisServer.start(server)
                if server is not primary:
                    with server._client() as operator:
                        operator.replicaof(primary.host, primary.port)
        for process in self._sentinels:
            process.start()
        ends_s = time.monotonic() + 60
        while not self._is_whole():
            if time.monotonic() > ends_s:
                raise RuntimeError("the replica does not follow the primary")
            time.sleep(0.05)

    def close(self) -> None:
        for process in self._sentinels:
            process.close()
        self._servers[1].close()
        super().close()
        shutil.rmtree(self._place, ignore_errors=True)

    def _is_whole(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            with self.primary._client() as operator:
                replication: Any = operator.info("replication")
            states = [one.sentinel_masters()[self._NAME] for one in self._watch.sentinels]
            known = all((s["num-slaves"], s["num-other-sentinels"]) == (1, 2) for s in states)
            return known and bool(replication.get("slave0", {}).get("state") == "online")
        return False

    def _sentinel(self, folder: Path) -> Process:
        port = free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {self._NAME} {self.host} {self.port} 2",
            f"sentinel down-after-milliseconds {self._NAME} 1000",
            f"sentinel failover-timeout {self._NAME} 10000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        return Process(
            folder, port, [find_program("redis-server"), str(folder / "sentinel.conf"), "--sentinel"]
        )


class RabbitCluster(RabbitServer):
    """Three nodes on three loopback addresses and one port. As a server, it is the first node."""

    def __init__(self) -> None:
        home, names_port, port = temporary_folder("cluster"), free_port(), free_port()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)
        (home / "advanced.config").write_text(_ADVANCED_CONFIG)
        env = {"HOME": str(home), "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config")}
        self._home = home
        self._names = [f"smsim-{k}-{secrets.token_hex(4)}@localhost" for k in (1, 2, 3)]
        # The first starts the epmd of all three.
        processes = [
            rabbit_process(
                f"127.0.0.{k}",
                port,
                names_port,
                {**env, "RABBITMQ_NODENAME": name},
                starts_epmd=k == 1,
            )
            for k, name in enumerate(self._names, 1)
        ]
        super().__init__(processes[0])
        self._others = [RabbitServer(process) for process in processes[1:]]

    @property
    def nodes(self) -> list[RabbitServer]:
        """All three nodes; the first is this one."""
        return [self, *self._others]

    @property
    def hosts(self) -> str:
        """The value of RABBITMQ_HOST for this cluster."""
        return ",".join(node.host for node in self.nodes)

    def start(self) -> None:
        super().start()
        for node in self._others:
            if node.pid is None:
                node.start()
        members = json.loads(self.ctl("cluster_status", "--formatter", "json"))["disk_nodes"]
        for node, name in zip(self._others, self._names[1:], strict=True):
            if name not in members:
                node.ctl("stop_app")
                node.ctl("join_cluster", self._names[0])
                node.ctl("start_app")

    def leader_of(self, queue: str) -> RabbitServer:
        """The node that leads a quorum queue."""
        queues = json.loads(self.ctl("list_queues", "name", "leader", "--formatter", "json"))
        (leader,) = [found["leader"] for found in queues if found["name"] == queue]
        return self.nodes[self._names.index(leader)]

    def sync_queues(self) -> None:
        super().sync_queues()
        for node in self._others:
            node.sync_queues()

    def close(self) -> None:
        for node in self._others:
            node.close()
        super().close()
        shutil.rmtree(self._home, ignore_errors=True)


def _mount(place: Path) -> bool:
    """Mounts a small tmpfs, if this user may."""
    with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
        size = f"size={_DISK_BYTES}"
        mount = ["mount", "-t", "tmpfs", "-o", size, "smsim-chaos", str(place)]
        subprocess.run(mount, check=True, capture_output=True)
        return True
    return False

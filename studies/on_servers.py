"""Runs a study as if nobody had set anything, on a RabbitMQ and a Redis of its own or on none.

    python -m studies.on_servers smsim scale --distributed --out FOLDER
    python -m studies.on_servers --none smsim scale --out FOLDER

The user's settings, in the environment and in `.env`, stay out: they would be those of other servers, or
of another study.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NoReturn

from common.settings import Settings
from tests.servers import RabbitServer, RedisServer

USAGE = "usage: python -m studies.on_servers [--none] COMMAND [ARGUMENT ...] --out FOLDER"


def main() -> int:
    """Gives the command's exit code; what the command writes into FOLDER is its own affair."""
    without = sys.argv[1:2] == ["--none"]
    command = _from_elsewhere(sys.argv[2 if without else 1 :])
    if command is None:
        print(USAGE, file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    with contextlib.ExitStack() as servers:
        where = {} if without else _servers(servers)
        # Where there is no .env.
        folder = servers.enter_context(tempfile.TemporaryDirectory(prefix="smsim-"))
        return _run(command, where, folder)


def _from_elsewhere(command: Sequence[str]) -> list[str] | None:
    """The command with its program and its --out as absolute paths. None if it lacks one of them."""
    program = shutil.which(command[0]) if command else None
    if program is None or "--out" not in command[1:-1]:
        return None
    absolute = [os.path.abspath(program), *command[1:]]
    folder = absolute.index("--out") + 1
    absolute[folder] = os.path.abspath(absolute[folder])
    return absolute


def _servers(running: contextlib.ExitStack) -> dict[str, str]:
    """Starts them; where they are, as environment."""
    rabbit, redis = running.enter_context(RabbitServer()), running.enter_context(RedisServer())
    return {
        "RABBITMQ_HOST": rabbit.host,
        "RABBITMQ_PORT": str(rabbit.port),
        "REDIS_HOST": redis.host,
        "REDIS_PORT": str(redis.port),
    }


def _run(command: Sequence[str], settings: Mapping[str, str], folder: str) -> int:
    inherited = {
        name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields
    }
    # In a session of its own Ctrl-C does not reach it twice, which would keep it from cleaning up.
    with subprocess.Popen(
        command, env={**inherited, **settings}, cwd=folder, start_new_session=True
    ) as process:
        try:
            return process.wait()
        except SystemExit:
            process.terminate()
            process.wait()
            raise


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""Runs a study without the user's settings, on a RabbitMQ and a Redis of its own or on none.

    python -m studies.on_servers smsim scale --distributed --out FOLDER
    python -m studies.on_servers --none smsim scale --out FOLDER

Settings in the environment and in `.env` are left out, since they would be those of other servers, or of another study.
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
from studies.servers import environment_of
from tests.servers import RabbitServer, RedisServer

USAGE = "usage: python -m studies.on_servers [--none] COMMAND [ARGUMENT ...] --out FOLDER"


def main() -> int:
    """Returns the command's exit code."""
    without = sys.argv[1:2] == ["--none"]
    command = _absolute(sys.argv[2 if without else 1 :])
    if command is None:
        print(USAGE, file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    with contextlib.ExitStack() as running:
        environment: Mapping[str, str] = {}
        if not without:
            rabbit, redis = running.enter_context(RabbitServer()), running.enter_context(RedisServer())
            environment = environment_of(rabbit, redis)
        # An empty folder, without a .env.
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="smsim-"))
        return _run(command, environment, folder)


def _absolute(command: Sequence[str]) -> list[str] | None:
    """The command with its program and its --out as absolute paths; None if it lacks one of them."""
    program = shutil.which(command[0]) if command else None
    if program is None or "--out" not in command[1:-1]:
        return None
    absolute = [os.path.abspath(program), *command[1:]]
    folder = absolute.index("--out") + 1
    absolute[folder] = os.path.abspath(absolute[folder])
    return absolute


def _run(command: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
    inherited = {
        name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields
    }
    # A session of its own: otherwise Ctrl-C would reach it twice and cut its clean-up short.
    with subprocess.Popen(
        command, env={**inherited, **environment}, cwd=folder, start_new_session=True
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

"""Runs a study without the user's settings, on a RabbitMQ and a Redis of its own or on none.

    python -m studies.on_servers smsim scale --distributed --out FOLDER
    python -m studies.on_servers --none smsim scale --out FOLDER

Settings in the environment and in `.env` are left out, since they would be those of other servers, or of another study.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence

from common.cli import EXIT_USAGE, run_command
from studies.process import Process
from studies.servers import environment_of
from tests.servers import RabbitServer, RedisServer

USAGE = "usage: python -m studies.on_servers [--none] COMMAND [ARGUMENT ...] --out FOLDER"


def main() -> int:
    """Returns the command's exit code."""
    without = sys.argv[1:2] == ["--none"]
    command = _absolute(sys.argv[2 if without else 1 :])
    if command is None:
        print(USAGE, file=sys.stderr)
        return EXIT_USAGE

    async def run() -> int:
        with contextlib.ExitStack() as stack:
            environment = {} if without else _servers(stack)
            process = Process(command[0], command, env=environment, isolated=True, forwarded=True)
            await stack.enter_context(process).ended()
            return process.code()

    return run_command("studies.on_servers", run)


def _servers(stack: contextlib.ExitStack) -> dict[str, str]:
    """Starts both servers. Returns the settings that lead to them."""
    return environment_of(stack.enter_context(RabbitServer()), stack.enter_context(RedisServer()))


def _absolute(command: Sequence[str]) -> list[str] | None:
    """The command with its program and its --out as absolute paths; None if it lacks one of them."""
    program = shutil.which(command[0]) if command else None
    if program is None or "--out" not in command[1:-1]:
        return None
    absolute = [os.path.abspath(program), *command[1:]]
    folder = absolute.index("--out") + 1
    absolute[folder] = os.path.abspath(absolute[folder])
    return absolute


if __name__ == "__main__":
    sys.exit(main())

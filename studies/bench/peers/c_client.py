"""The C client: `client.c`, compiled against librabbitmq."""

import os
import shutil
import subprocess
from pathlib import Path

from studies.bench.peers import job
from studies.bench.peers.port import NotAvailable

SOURCE = Path(__file__).with_name("client.c")
PROGRAM = "PEER_C_CLIENT"


def build(folder: Path) -> dict[str, str]:
    """Compiles it into a folder and returns the environment variables that its processes need. Raises NotAvailable."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        raise NotAvailable("needs a C compiler: scripts/install-bench.sh")
    program = folder / "client"
    command = [compiler, "-O2", "-o", str(program), str(SOURCE), "-lrabbitmq"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotAvailable("needs librabbitmq and its headers: scripts/install-bench.sh")
    return {PROGRAM: str(program)}


def librabbitmq_version(environment: dict[str, str]) -> str:
    """Of the library that the client was built with."""
    return subprocess.run(
        [environment[PROGRAM], "version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def publish(count: int) -> None:
    """Publishes messages, confirms in a window."""
    _become("publish", count)


def work(arguments: list[str]) -> None:
    """Consumes the number of messages that its first argument gives, without counting them in Redis."""
    _become("work", int(arguments[0]))


def _become(side: str, count: int) -> None:
    program = os.environ[PROGRAM]
    os.execv(program, [program, side, job.RABBITMQ_HOST, str(job.RABBITMQ_PORT), job.QUEUE, str(count)])


if __name__ == "__main__":
    job.run(publish, work)

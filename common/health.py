"""Whether a service is alive, for a container's health check: it touches a file, `python -m common.health` looks."""

import os
import sys
import time
from pathlib import Path

# The file's name; unset outside containers, and then nothing is written.
VARIABLE = "HEALTH_FILE"
SILENCE_S = 30.0


def beat(next_within_s: float = 0) -> None:
    """The service has just had an answer from the ledger, and expects the next one within so many seconds."""
    if name := os.environ.get(VARIABLE):
        Path(name).touch()
        until = time.time() + next_within_s
        os.utime(name, (until, until))


def healthy() -> bool:
    """Whether the last beat is recent."""
    try:
        return time.time() - Path(os.environ[VARIABLE]).stat().st_mtime < SILENCE_S
    except (KeyError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(not healthy())

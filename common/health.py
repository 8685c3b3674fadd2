"""A container's health check: the service touches a file, and `python -m common.health` looks at it."""

import os
import sys
import time
from pathlib import Path

# The name of the file. Outside containers it is unset, and nothing is written.
VARIABLE = "HEALTH_FILE"
SILENCE_S = 30.0


def beat(next_within_s: float = 0) -> None:
    """The ledger has answered; the service expects the next answer within `next_within_s` seconds."""
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

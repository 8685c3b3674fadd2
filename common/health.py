"""A container's health check: the service touches a file, and `python -m common.health` looks at it."""

import logging
import os
import sys
import time
from pathlib import Path

# The name of the file. Outside containers it is unset, and nothing is written.
VARIABLE = "HEALTH_FILE"
SILENCE_S = 30.0

log = logging.getLogger(__name__)


def beat(next_within_s: float = 0) -> None:
    """The ledger has answered; the service expects the next answer within `next_within_s` seconds."""
    if name := os.environ.get(VARIABLE):
        until = time.time() + next_within_s
        try:
            Path(name).touch()
            os.utime(name, (until, until))
        except OSError as error:  # the health check will fail, and the service still works
            log.warning("health_file_unwritten", extra={"file": name, "reason": error.strerror})


def healthy() -> bool:
    """Whether the last beat is recent."""
    try:
        return time.time() - Path(os.environ[VARIABLE]).stat().st_mtime < SILENCE_S
    except (KeyError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(not healthy())

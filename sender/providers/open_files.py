"""The number of files, connections included, that this process may open."""

import resource

from common.errors import UsageError

MOST_FILES = 1 << 20


def raise_file_limit() -> int:
    """Raises this process's limit as far as the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MOST_FILES:
        return MOST_FILES
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # some systems have a lower limit than they report
        return soft
    return wanted


def require_connections(connections: int, limit: int, spare: int = 100) -> None:
    """Returns if the limit leaves room for this many connections beside `spare` files of other use.

    Raises:
        UsageError: The limit is too low.
    """
    if connections + spare > limit:
        raise UsageError(
            f"{connections} sends in flight need as many connections, and this system allows {limit} open files: "
            "lower SENDER_CONCURRENCY, or raise the limit (ulimit -n)"
        )

"""How pytest-xdist spreads the tests over its workers. Each worker has its own servers."""

import os

import pytest

# Tests wait more than they compute, so that a core serves several workers.
WORKERS_PER_CORE = 2
# Each worker may start a RabbitMQ, a Redis and a Chromium: about 700 MB.
MOST_WORKERS = 8
# The longest tests begin first, so that no worker is left with one at the end.
FIRST = ("chaos", "soak", "fuzz", "e2e", "model")
# Expensive fixtures: the tests of a module that use one of them stay on one worker.
SHARED = {"browser", "mortal_servers"}


def workers() -> int:
    """The number of workers of `-n auto`."""
    return min(MOST_WORKERS, WORKERS_PER_CORE * (os.cpu_count() or 1))


def spread(items: list[pytest.Item]) -> None:
    """Sorts the tests and groups those that must stay on one worker."""
    items.sort(key=_rank)
    for item in items:
        if SHARED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return FIRST.index(folder) if folder in FIRST else len(FIRST)

"""How pytest-xdist spreads the tests over its workers, each of which has servers of its own."""

import os

import pytest

# Tests wait more than they compute, so that a core serves several workers.
WORKERS_PER_CORE = 2
# What takes longest begins first, so that no worker is left with it at the end.
FIRST = ("chaos", "soak", "fuzz", "e2e", "model")
# The tests of a module that share one of these stay on one worker, for it is costly to make.
SHARED = {"browser", "mortal_servers"}


def workers() -> int:
    """What `-n auto` means."""
    return WORKERS_PER_CORE * (os.cpu_count() or 1)


def spread(items: list[pytest.Item]) -> None:
    """Sorts the tests, and groups those that are to stay together."""
    items.sort(key=_rank)
    for item in items:
        if SHARED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return FIRST.index(folder) if folder in FIRST else len(FIRST)

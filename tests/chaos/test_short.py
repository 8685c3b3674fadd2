"""The short form of the suite; `make chaos` plays all of it."""

import asyncio

import pytest

from tests.chaos.__main__ import SHORT_FAULTS, SHORT_MESSAGES, chaos


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("rabbit_server", "redis_server")  # they skip the test if there are no servers
def test_the_short_form() -> None:
    """Killed senders, cut connections, a killed Redis, one that fails over: nothing lost, nothing counted twice."""
    results = asyncio.run(chaos(list(SHORT_FAULTS), SHORT_MESSAGES, runs=1, seed=1))

    assert not results["broken"]
    assert [run["fault"] for run in results["runs"]] == list(SHORT_FAULTS)
    for run in results["runs"]:
        assert not run["troubles"], run
        assert run["published"] == run["sent"] + run["failed"] == SHORT_MESSAGES
        assert (run["lost"], run["counted_twice"]) == (0, 0)
        assert run["never_over"]
        assert run["strikes"]

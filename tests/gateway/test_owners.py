"""gateway/owners.py: whose a run is, read once and again after a while, within bounds."""

import pytest

from common.errors import Unavailable, UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.values import Publication
from common.messages import Lane
from common.web.keys.port import ALL_SCOPES, OWN_SCOPES, Caller
from gateway.acceptance.port import Owner
from gateway.acceptance.recipes import recipe_of_singles
from gateway.owners import OwnerLimits, Owners

ME, YOU = (Caller(name, name, OWN_SCOPES) for name in ("me", "you"))
BOSS = Caller("boss", "boss", ALL_SCOPES)


class CountingLedger(MemoryLedger):
    """Counts how often it is asked, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.is_away = False

    async def publication(self, run: str) -> Publication:
        self.asked += 1
        if self.is_away:
            raise Unavailable("away")
        return await super().publication(run)

    async def make(self, run: str, owner: str) -> None:
        await self.begin(run, recipe_of_singles(Lane.BULK, "sms_queue", Owner(owner)), 1, "a-gateway")


class Bench:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.ledger = CountingLedger()
        self.owners = Owners(self.ledger, OwnerLimits(runs=2), clock=lambda: self.now_s)

    async def refuses(self, caller: Caller, run: str) -> bool:
        try:
            await self.owners.check(caller, run)
        except UnknownRun:
            return True
        return False


async def test_a_run_of_another_is_as_one_that_does_not_exist() -> None:
    """For a key that sees all the ledger is not asked, and for its owner once.

    For others it is asked each time, as for one that does not exist: the time of a 404 does not tell them apart.
    """
    bench = Bench()
    await bench.ledger.make("mine", "me")
    assert not await bench.refuses(BOSS, "mine")
    assert bench.ledger.asked == 0
    for _ in range(3):
        assert not await bench.refuses(ME, "mine")
    assert bench.ledger.asked == 1
    for run in ("mine", "nowhere"):
        asked = bench.ledger.asked
        for _ in range(3):
            assert await bench.refuses(YOU, run)
        assert bench.ledger.asked == asked + 3


async def test_an_owner_is_read_again_after_a_while() -> None:
    """A run that was forgotten may be followed by another key's of the same name."""
    bench = Bench()
    await bench.ledger.make("a-run", "me")
    assert not await bench.refuses(ME, "a-run")
    await bench.ledger.close_run("a-run")
    await bench.ledger.forget("a-run")
    await bench.ledger.make("a-run", "you")
    bench.now_s += OwnerLimits().kept_s
    assert await bench.refuses(ME, "a-run")
    assert not await bench.refuses(YOU, "a-run")


async def test_what_is_not_known_is_nobody_s() -> None:
    """Before it is learnt, while the ledger is away, and if there is no such run; memory is bounded."""
    bench = Bench()
    for run in ("one", "two", "three"):
        await bench.ledger.make(run, "me")
    assert not bench.owners.has("me", "one")
    bench.ledger.is_away = True
    with pytest.raises(Unavailable):
        await bench.owners.learn(["one"])
    bench.ledger.is_away = False
    await bench.owners.learn(["one", "nowhere"])
    assert bench.owners.has("me", "one")
    assert not bench.owners.has("you", "one")
    assert not bench.owners.has("me", "nowhere")
    await bench.owners.learn(["one", "two", "three"])
    assert len(bench.owners._known) == 2

"""Whose turn it is: dead hosts wait for each other, and nobody for them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.callbacks import turns as module
from gateway.callbacks.turns import Standing, Turn, Turns
from tests.waiting import eventually

NEVER_S = 1_000.0


def joined(turns: Turns, host: str) -> Turn:
    """A turn, for which there is room."""
    turn = turns.join(host)
    assert turn is not None
    return turn


def here(turn: Turn) -> bool:
    return turn._came.done() and turn._came.result()


async def dead(turns: Turns, hosts: list[str]) -> None:
    """Each is tried, takes long, and fails."""
    for host in hosts:
        turn = joined(turns, host)
        assert await turn.comes()
        turns._is_late(turn)
        turn.end(False)
        assert turns.standing(host) is Standing.FAILING


async def well(turns: Turns, host: str) -> None:
    turn = joined(turns, host)
    assert await turn.comes()
    turn.end(True)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """On which nobody is late by itself."""
    monkeypatch.setattr(module, "PROMPT_S", NEVER_S)
    return Turns()


async def test_a_host_that_is_well_waits_for_no_dead_ones(turns: Turns) -> None:
    """However many there are, known or new, and each with deliveries to come: its turns are here at once."""
    await well(turns, "well")
    await dead(turns, [f"dead{n}" for n in range(500)])
    hanging = [joined(turns, f"{kind}{n}") for n in range(500) for kind in ("dead", "new")]
    assert sum(here(turn) for turn in hanging) == Standing.FAILING.places + Standing.NEW.places
    assert all(here(joined(turns, "well")) for _ in range(Standing.WELL.under_way))
    assert not here(joined(turns, "well"))


async def test_a_new_host_waits_for_no_known_dead_ones_and_not_long_for_new_ones(turns: Turns) -> None:
    """Those before it give up their places once they are late, though they are still under way."""
    await dead(turns, [f"dead{n}" for n in range(100)])
    dead_ones = [joined(turns, f"dead{n}") for n in range(100)]
    new = [joined(turns, f"new{n}") for n in range(2 * Standing.NEW.places)]
    last = joined(turns, "last")
    for round_ in range(2):
        assert not here(last)
        for turn in new[round_ * Standing.NEW.places : (round_ + 1) * Standing.NEW.places]:
            assert here(turn)
            turns._is_late(turn)
    assert here(last)
    for turn in dead_ones:  # they hold their places, late or not
        if here(turn):
            turns._is_late(turn)
    assert sum(here(turn) for turn in dead_ones) == Standing.FAILING.places


async def test_what_is_under_way_is_bounded(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is late when enough linger keeps the place until the end; and all places are free in the end."""
    monkeypatch.setattr(module, "MOST_LINGERING", 10)
    all_turns = [joined(turns, f"new{n}") for n in range(500)]
    for turn in all_turns:
        if here(turn):
            turns._is_late(turn)
    assert sum(here(turn) for turn in all_turns) == Standing.NEW.places + 10
    for turn in all_turns:
        assert here(turn)
        turn.end(True)
    assert turns._free == {standing: standing.places for standing in Standing}
    assert turns._lingering == 0


async def test_hosts_get_places_in_turn(turns: Turns) -> None:
    """One that has much to come does not keep the others from theirs."""
    await asyncio.gather(*(well(turns, f"h{n}") for n in range(20)))
    much = [joined(turns, f"h{n}") for n in range(19) for _ in range(100)]
    little = joined(turns, "h19")
    assert not here(little)
    for turn in [turn for turn in much if here(turn)][: 2 * 19]:
        turn.end(True)
    assert here(little)


async def test_a_host_that_begins_to_fail_keeps_no_room_and_gets_it_back_when_it_is_well(
    turns: Turns,
) -> None:
    """What waits for it is given up, for now; then one is tried at a time, and the first success lets all in."""
    await well(turns, "a")
    one, *others = (joined(turns, "a") for _ in range(100))
    turns._is_late(one)
    one.end(False)
    gone = [turn for turn in others if turn._came.done() and not turn._came.result()]
    assert len(gone) == len(others) - (Standing.WELL.under_way - 1)
    assert turns.join("a") is None
    for turn in others:
        if here(turn):
            turns._is_late(turn)
            turn.end(False)
    probe = joined(turns, "a")
    assert here(probe)
    assert turns.join("a") is None
    probe.end(True)
    assert turns.standing("a") is Standing.WELL
    assert all(here(joined(turns, "a")) for _ in range(Standing.WELL.under_way))


async def test_a_try_that_fails_at_once_costs_nothing(turns: Turns) -> None:
    """A refused connection or a 500 is no reason to hold back; nor is what was not tried at all."""
    turn = joined(turns, "a")
    turn.end(None)
    assert turns.standing("a") is Standing.NEW
    joined(turns, "a").end(False)
    assert turns.standing("a") is Standing.WELL


async def test_a_late_try_is_noticed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is the next one's though nothing has ended."""
    monkeypatch.setattr(module, "PROMPT_S", 0.01)
    turns = Turns()
    hanging = [joined(turns, f"h{n}") for n in range(Standing.NEW.places + 1)]
    await eventually(lambda: here(hanging[-1]))


async def test_who_is_cancelled_while_waiting_takes_no_place(turns: Turns) -> None:
    """Its turn goes to the next."""
    hanging = [joined(turns, f"h{n}") for n in range(Standing.NEW.places)]
    waits = asyncio.create_task(awaited(joined(turns, "cancelled").comes))
    next_one = joined(turns, "next")
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    hanging[0].end(True)
    assert here(next_one)


async def awaited(comes: Callable[[], Awaitable[bool]]) -> bool:
    return await comes()


async def test_the_hosts_that_are_known_are_bounded(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those longest not heard of are forgotten, but none that has something under way."""
    monkeypatch.setattr(module, "MOST_HOSTS", 10)
    kept = joined(turns, "kept")
    for n in range(100):
        await well(turns, f"h{n}")
    assert len(turns._hosts) == 10
    assert turns.standing("h0") is Standing.NEW
    assert turns.standing("h99") is Standing.WELL
    kept.end(True)
    assert turns.standing("kept") is Standing.WELL


async def test_a_host_that_begins_to_fail_as_it_stands_in_line_goes_on_in_the_other(turns: Turns) -> None:
    """What it still waits with has its turn among those that fail, though no other of these does anything."""
    await well(turns, "fails")
    others = [f"well{n}" for n in range(Standing.WELL.places + 1)]
    for other in others:
        await well(turns, other)
    first = joined(turns, "fails")
    assert await first.comes()
    turns._is_late(first)
    busy = [joined(turns, other) for other in others]
    second = joined(turns, "fails")
    first.end(False)
    assert not here(second)
    for turn in busy:
        assert await turn.comes()
        turn.end(True)
    assert here(second)

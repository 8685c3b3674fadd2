"""Plans are drawn from a seed, and a table is made of what came of them."""

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.plan import BATCH_SIZES, make_plan
from tests.chaos.table import into_page, markdown


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plan_is_drawn_from_its_seed(fault: str) -> None:
    """The same seed gives the same plan; three seeds in a row have all batch sizes; each plan has all its messages."""
    wishes = FAULTS[fault].wishes
    plans = [make_plan(fault, seed, 5_000, wishes) for seed in (7, 8, 9)]
    assert plans == [make_plan(fault, seed, 5_000, wishes) for seed in (7, 8, 9)]
    assert {plan.batch_size for plan in plans} == set(BATCH_SIZES)
    for plan in plans:
        assert sum(wave.messages for wave in plan.waves) == 5_000
        assert {wave.urgent for wave in plan.waves} == {True, False}
        shares = [strike.at_share for strike in plan.strikes]
        assert len(shares) == min(wishes.strikes, 5)
        assert shares == sorted(shares)
        assert 0 < shares[0] <= shares[-1] < 0.8


def test_the_table() -> None:
    """A row a fault sums its runs up, and goes between the markers of the page, which keeps all else."""
    run = {
        "fault": "a-fault",
        "description": "it strikes",
        "strikes": 2,
        "messages": 1000,
        "lost": 0,
        "counted_twice": 0,
        "sent_twice": 3,
        "ambiguous": 5,
        "troubles": [],
    }
    results = {
        "measured_at": "2026-11-21",
        "seed": 1,
        "versions": {"redis": "7"},
        "machine": {"cores": 2, "cpu": "some", "memory_gb": 8.0, "system": "Linux"},
        "runs": [{**run, "recovery_s": [1.0, 2.0]}, {**run, "recovery_s": [9.0]}],
        "not_run": {"clock-jumps": "no compiler"},
        "broken": [],
    }
    table = markdown(results)
    assert "| a-fault | it strikes | 2 | 4 | 2,000 | 0 | 0 | 6 | 10 | 2.0 (9.0) |" in table
    assert "in all of them everything held" in table
    assert "clock-jumps: no compiler." in table

    page = into_page("before\n<!-- chaos -->\nold\n<!-- /chaos -->\nafter\n", table)
    assert page == f"before\n<!-- chaos -->\n{table}\n<!-- /chaos -->\nafter\n"
    with pytest.raises(ValueError, match="no <!-- chaos -->"):
        into_page("before\n", table)

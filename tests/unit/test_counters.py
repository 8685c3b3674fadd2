"""The one list of counters: each place that names counters has every one of them, with no edit of its own."""

import dataclasses
import io
import re
from pathlib import Path

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from common.counters import COUNTERS, RECOUNTED, TALLIED, Counter, Kind, Tally
from common.keys import Keys
from common.ledger.memory import MemoryLedger
from common.ledger.redis.scripts import script_texts
from common.ledger.values import Snapshot
from common.messages import State
from common.statistics import statistics
from gateway.api.runs import _RUN, _STATS
from gateway.api.views import run_view, stats_view
from gateway.dashboard import Dashboard
from gateway.live.runs import _counters
from monitor.metrics import PipelineMetrics
from monitor.view import picture
from upkeep.findings import RunAudit

NAMES = [counter.name for counter in COUNTERS]
# A value for each counter that is found nowhere else: 10_001, 10_002, ...
VALUES = {name: 10_001 + at for at, name in enumerate(NAMES)}
SNAPSHOT = msgspec.structs.replace(Snapshot(), **VALUES, total_time_us=1_000_000)
DOCS = Path(__file__).parent.parent.parent / "docs"


async def test_a_tally_adds_up_each_counter_and_a_snapshot_tells_it() -> None:
    """What a ledger counts comes out of its snapshot under the same name."""
    ledger = MemoryLedger()
    ledger._all.count(Tally(**VALUES))
    ledger._all.count(Tally(**VALUES, total_time_us=5))

    now = await ledger.snapshot()

    assert {name: getattr(now, name) for name in NAMES} == {name: 2 * VALUES[name] for name in NAMES}
    assert now.total_time_us == 5


def test_the_statistics_and_their_json_have_each_counter() -> None:
    """The monitor's line, and what the gateway says of a run and of all."""
    said = (statistics(SNAPSHOT).as_json(), run_view("a", SNAPSHOT), stats_view(SNAPSHOT, None, None))
    for name in NAMES:
        assert said[0][name] == getattr(said[1], name) == getattr(said[2], name) == VALUES[name]


def test_the_examples_of_the_api_have_each_counter() -> None:
    """The OpenAPI document's examples of runs and statistics."""
    assert {*NAMES} <= {*_RUN}
    assert {*NAMES} <= {*_STATS}


def test_a_run_is_seen_to_move_by_each_counter() -> None:
    """GET /events tells of a run again when any of its counters has changed."""
    for name in NAMES:
        assert _counters(Snapshot()) != _counters(msgspec.structs.replace(Snapshot(), **{name: 1}))


def test_each_counter_is_a_metric_of_its_kind() -> None:
    """Prometheus gets each value; the final states of messages share one metric, with a label."""
    metrics, registry = PipelineMetrics(), CollectorRegistry()
    metrics.update(SNAPSHOT)
    registry.register(metrics)
    text = generate_latest(registry).decode()
    for counter in COUNTERS:
        assert f"{sample(counter)} {VALUES[counter.name]}.0\n" in text
        assert f"# HELP {sample(counter).partition('{')[0]} " in text


def sample(counter: Counter) -> str:
    """The name under which Prometheus gets a counter's value."""
    match counter.kind:
        case Kind.LEVEL:
            return counter.metric
        case Kind.TOTAL:
            return f"{counter.metric}_total"
        case Kind.OUTCOME:
            return f'{counter.metric}_total{{outcome="{counter.name}"}}'


def test_each_metric_is_documented() -> None:
    """The table in docs/monitoring.md names each counter's metric."""
    text = (DOCS / "monitoring.md").read_text()
    for counter in COUNTERS:
        assert f"`{sample(counter).partition('{')[0]}" in text


def test_the_lua_scripts_have_each_counter() -> None:
    """A new run's hash shows each counter from the beginning."""
    found = re.search(r"^local COUNTERS = \{(.*)\}$", script_texts(Keys())["begin"], re.MULTILINE)
    assert found is not None
    assert [name.strip("'") for name in found[1].split(", ")] == [*TALLIED]


def test_the_terminal_shows_each_counter() -> None:
    """`monitor.py --live` has each label and value."""
    console = Console(file=io.StringIO(), record=True, width=120)
    console.print(picture(SNAPSHOT, None, "all runs"))
    shown = console.export_text()
    for counter in COUNTERS:
        assert re.search(rf"{counter.label.lower()} +{VALUES[counter.name]:,}", shown)


def test_the_dashboard_gets_the_list() -> None:
    """The page reads names and labels from a module that is made of the list."""
    module = Dashboard()._assets["counters.js"]
    assert module.media_type.startswith("text/javascript")
    for counter in COUNTERS:
        assert f'{{"name": "{counter.name}", "label": "{counter.label}"}}' in module.content.decode()


async def test_what_can_be_recounted_is_what_the_states_say() -> None:
    """An audit counts what is published and each state that has a counter."""
    ledger = MemoryLedger()
    await ledger.claim("a", np.arange(3), redelivered=False)
    states = [state.name.lower() for state in State if state.name.lower() in NAMES]
    assert [*RECOUNTED] == ["published", *states] == [*await ledger.recount("a")]
    assert {*RECOUNTED} <= {field.name for field in dataclasses.fields(RunAudit)}

"""The tables and the chart of the benchmark: they follow from the figures, and the docs show what was recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from studies.bench.chart import draw
from studies.bench.smoke import ratios_of, rows
from studies.bench.table import CHART, PAGE, RECORDED, into_page, markdown, ratio


def figure(who: str, work: str, rate: int, batch: int | None = 1, messages: int = 1000) -> dict[str, Any]:
    return {
        "who": who,
        "work": work,
        "batch_size": batch,
        "messages": messages,
        "rate_per_s": rate,
        "rates_per_s": [rate - 1, rate, rate + 1],
        "cpu_s_per_million": {"producer": 10.0, "sender": 250.0, "rabbitmq": 5.0, "redis": 0.5},
        "peak_rss_mb": {"producer": 60.4, "sender": 70.6},
    }


def results(rates: dict[str, int], peers: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    works = ("publish", "consume", "both at once")
    return {
        "measured_at": "2026-11-21",
        "machine": {"cores": 2, "memory_gb": 8.0, "cpu": "a CPU", "system": "Linux 6"},
        "versions": {"python": "3.11"},
        "rounds": 3,
        "scale": 1.0,
        "sender_concurrency": 100,
        "peers": peers or [],
        "figures": [figure(who, work, rate) for who, rate in rates.items() for work in works],
    }


RATES = {"ours": 20_000, "plain pika": 1_000, "aio-pika": 4_000, "C client": 40_000}


def test_the_table_compares_at_both_at_once_fastest_first() -> None:
    """Each row has ours / it, and the sentence below names the best Python peer and the C client's share."""
    found = markdown(results(RATES))
    names = [line.split(" | ")[0].strip("| *") for line in found.splitlines() if line.startswith("| ")]
    assert names[:5] == ["who", "---", "C client", "ours", "aio-pika"]
    assert (
        "| aio-pika | 4,000 | 4,000 | **4,000** (3,999 to 4,001) | 5.00 | 10.0 | 250 | 5.0 | 0.5 | 60 | 71 |"
        in found
    )
    assert "| 20 | 10.0 |" in found
    assert (
        "ours does 5.0 times what the best Python peer does (aio-pika) and 50% of what the C client" in found
    )


def test_batches_do_not_count_in_the_comparison() -> None:
    """Ours in batches of 100 is 100 messages an AMQP message: no ratio to a peer comes of it."""
    found = results({"plain pika": 1_000, "ours": 20_000})
    found["figures"].append(figure("ours", "both at once", 400_000, 100))
    assert ratio(found, "plain pika") == 20
    assert ratio(found, "nobody") is None


def test_a_peer_that_failed_is_named_with_its_reason() -> None:
    """It is in no row, and no figure of it is made up."""
    missing = {"name": "C client", "publishes": "", "works": "", "docs": [], "failure": "needs librabbitmq"}
    found = markdown(results({"ours": 20_000, "plain pika": 1_000}, [missing]))
    assert "Not measured: C client: needs librabbitmq." in found
    assert "of what the C client does" not in found


def test_smoke_tells_a_slower_machine_from_slower_code() -> None:
    """Half as fast at everything is no change; ours alone at half speed reads 0.50. What is not known stays blank."""
    before = results({"ours": 20_000, "plain pika": 1_000})
    machine = rows(results({"ours": 10_000, "plain pika": 500}), before)
    code = rows(results({"ours": 10_000, "plain pika": 1_000}), before)
    assert [row[-1] for row in machine] == ["1.00"] * 3
    assert [row[-1] for row in code] == ["0.50"] * 3
    assert code[0] == ("publish", "1", "10,000", "1,000", "10.00", "20.00", "0.50")
    assert rows(results({"ours": 10_000}), before)[0] == ("publish", "1", "10,000", "", "", "20.00", "")


def test_smoke_compares_batches_with_single_messages_of_plain_pika() -> None:
    """Plain pika has no batches: its rate at the same work is the yardstick for every batch size."""
    found = results({"ours": 20_000, "plain pika": 1_000})
    found["figures"].append(figure("ours", "publish", 500_000, 100))
    assert ratios_of(found)["publish", 100].times == 500


def test_smoke_compares_only_as_many_messages() -> None:
    """Begin and end weigh more in a short run: beside a recorded run of other counts nothing is shown."""
    before = results({"ours": 20_000})
    before["figures"].append(figure("plain pika", "publish", 1_000, messages=3_000))
    now = {"figures": [figure("ours", "publish", 20_000), figure("plain pika", "publish", 1_000)]}
    assert rows(now, before)[0] == ("publish", "1", "20,000", "1,000", "20.00", "", "")


def test_the_page_must_have_markers() -> None:
    """Text around them stays; a page without them is refused rather than overwritten."""
    assert (
        into_page("a <!-- bench -->old<!-- /bench --> b", "new") == "a <!-- bench -->\nnew\n<!-- /bench --> b"
    )
    with pytest.raises(ValueError, match="no <!-- bench -->"):
        into_page("a page", "new")


def test_the_chart_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """Drawn twice, not a byte differs; other figures give another chart."""
    drawn = []
    for ours in 20_000, 20_000, 30_000:
        draw(results({**RATES, "ours": ours}), tmp_path / "chart.svg")
        drawn.append((tmp_path / "chart.svg").read_text())
    first, second, other = drawn
    assert [file.name for file in tmp_path.iterdir()] == ["chart.svg"]
    assert first == second != other
    assert all(text in first for text in ("aio-pika", "(no counters)", "40,000"))


def test_the_docs_show_the_recorded_run(tmp_path: Path) -> None:
    """docs/performance.md and its chart are what `studies.bench.table --write` makes of docs/performance.json."""
    recorded = json.loads(RECORDED.read_text())
    assert into_page(PAGE.read_text(), markdown(recorded)) == PAGE.read_text()
    draw(recorded, tmp_path / "chart.svg")
    assert _texts(tmp_path / "chart.svg") == _texts(CHART)


def _texts(svg: Path) -> list[str]:
    """What the chart says; how it is drawn may differ between versions of Matplotlib."""
    return [line.strip() for line in svg.read_text().splitlines() if "<text" in line]

"""The figures as markdown: `python -m studies.bench.table FILE` prints that of a results file.

`--write` records the file as docs/performance.json, and puts its tables and its chart into docs/performance.md.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.cli import Parser
from studies.bench.figures import BOTH, CONSUME, EMBEDDED, PUBLISH, US
from studies.bench.peers.catalogue import C_CLIENT
from studies.page import conditions, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, RECORDED, CHART = DOCS / "performance.md", DOCS / "performance.json", DOCS / "performance.svg"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
COMPARED = (
    *("who", "publish/s", "consume/s", "both at once/s (lowest to highest)", "ours / it"),
    *("CPU s per million: producer", "worker", "RabbitMQ", "Redis", "peak MB: producer", "worker"),
)
OURS = (
    *("work", "batch", "messages", "messages/s (lowest to highest)"),
    *("CPU s per million: producer", "sender", "RabbitMQ", "Redis", "peak MB: producer", "sender"),
)
PEERS = ("peer", "publishes", "works", "as advised in")
SIDES = ("producer", "sender", "rabbitmq", "redis")


def markdown(results: dict[str, Any]) -> str:
    """All tables, with what there is to say on each."""
    parts = []
    if any(figure["who"] not in (US, EMBEDDED) for figure in results["figures"]):
        parts += [
            "One message per AMQP message. CPU time and memory are of both at once; the JSON has the others.",
            as_table(COMPARED, _compared(results), left=1),
            *_verdict(results),
        ]
    parts += [f"Not measured: {peer['name']}: {peer['failure']}." for peer in _failed(results)]
    ours = [_own_row(figure) for figure in results["figures"] if figure["who"] in (US, EMBEDDED)]
    if ours:
        parts += ["Ours, in batches too:", as_table(OURS, ours, left=1)]
    parts.append(_conditions(results))
    if results["peers"]:
        parts += ["How the peers are set up:", as_table(PEERS, map(_peer_row, results["peers"]), left=4)]
    return "\n\n".join(parts)


def into_page(page: str, tables: str) -> str:
    """A page with the tables between its markers. Raises ValueError where it has none."""
    return filled(page, BEGIN, END, tables)


def compared(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures at one message per AMQP message: by who, by work; in the order in which they were measured."""
    by_who: dict[str, dict[str, dict[str, Any]]] = {}
    for figure in results["figures"]:
        if figure["batch_size"] == 1:
            by_who.setdefault(figure["who"], {})[figure["work"]] = figure
    return by_who


def ratio(results: dict[str, Any], who: str) -> float | None:
    """How many times what `who` does with both at once ours does, one message per AMQP message; None if unknown."""
    by_who = compared(results)
    ours, theirs = (by_who.get(name, {}).get(BOTH) for name in (US, who))
    return ours["rate_per_s"] / theirs["rate_per_s"] if ours and theirs else None


def as_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], left: int) -> str:
    """A table whose columns stand to the right from number `left` on."""
    rules = ("---",) * left + ("---:",) * (len(columns) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rules, *rows))


def _compared(results: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for who, works in _fastest_first(results):
        both = works[BOTH]
        times = ratio(results, who)
        rows.append(
            (
                f"**{who}**" if who == US else who,
                *(f"{works[work]['rate_per_s']:,}" for work in (PUBLISH, CONSUME)),
                _rate(both),
                "" if who == US or times is None else f"{times:.2f}" if times < 10 else f"{times:.0f}",
                *_costs(both),
            )
        )
    return rows


def _verdict(results: dict[str, Any]) -> list[str]:
    """Ours beside the best Python peer and the C client, in a sentence."""
    best = next((who for who, _ in _fastest_first(results) if who not in (US, C_CLIENT)), None)
    said = []
    if best and (times := ratio(results, best)):
        said.append(f"{times:.1f} times what the best Python peer does ({best})")
    if share := ratio(results, C_CLIENT):
        said.append(f"{share:.0%} of what the C client does, which keeps no counters")
    return [f"With both at once, ours does {' and '.join(said)}."] if said else []


def _fastest_first(results: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    return sorted(compared(results).items(), key=_both, reverse=True)


def _both(named: tuple[str, dict[str, dict[str, Any]]]) -> int:
    return int(named[1][BOTH]["rate_per_s"])


def _own_row(figure: dict[str, Any]) -> tuple[str, ...]:
    batch = str(figure["batch_size"] or "fitting")
    return (figure["work"], batch, f"{figure['messages']:,}", _rate(figure), *_costs(figure))


def _rate(figure: dict[str, Any]) -> str:
    rates = figure["rates_per_s"]
    return f"**{figure['rate_per_s']:,}** ({min(rates):,} to {max(rates):,})"


def _costs(figure: dict[str, Any]) -> tuple[str, ...]:
    """CPU time of each side and server, and memory of each side; an embedded run is both sides in one."""
    cpu, peak = dict(figure["cpu_s_per_million"]), dict(figure["peak_rss_mb"])
    for costs in (cpu, peak):
        if EMBEDDED in costs:
            costs["sender"] = costs[EMBEDDED]
    cells = [_cell(cpu.get(name), 0 if cpu.get(name, 0) >= 100 else 1) for name in SIDES]
    return (*cells, *(_cell(peak.get(name), 0) for name in SIDES[:2]))


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _peer_row(peer: dict[str, Any]) -> tuple[str, ...]:
    links = ", ".join(f"[{number}]({link})" for number, link in enumerate(peer["docs"], 1))
    return (peer["name"], peer["publishes"], peer["works"], links)


def _failed(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [peer for peer in results["peers"] if "failure" in peer]


def _conditions(results: dict[str, Any]) -> str:
    rounds, slots = results["rounds"], results["sender_concurrency"]
    return f"{conditions(results)} Medians of {rounds} rounds; {slots:,} slots a sender."


def main() -> None:
    """Prints the tables, or writes them into the docs."""
    parser = Parser("studies.bench.table", "Shows the figures of a results file as markdown.")
    parser.add_argument("file", type=Path, nargs="?", default=RECORDED)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md, .json and .svg")
    args = parser.parse_args()
    try:
        recorded = args.file.read_text()
        results = json.loads(recorded)
    except (OSError, ValueError) as error:
        parser.error(f"{args.file}: can't be read: {error}")
    if not args.write:
        print(markdown(results))
        return
    from studies.bench.chart import draw  # it needs what is here

    PAGE.write_text(into_page(PAGE.read_text(), markdown(results)))
    draw(results, CHART)
    RECORDED.write_text(recorded)


if __name__ == "__main__":
    main()

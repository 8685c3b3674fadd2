"""The figures as a markdown table: `python -m benchmarks.table FILE` prints that of a results file."""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    *("work", "batch", "messages", "messages/s (lowest to highest)"),
    *("CPU s per million: producer", "sender", "RabbitMQ", "Redis", "peak MB: producer", "sender"),
)


def markdown(results: dict[str, Any]) -> str:
    """One row a figure, and a line on the machine, the versions and the settings."""
    rows = [
        COLUMNS,
        ("---", *["---:"] * (len(COLUMNS) - 1)),
        *(_row(figure) for figure in results["figures"]),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_conditions(results)}"


def _row(figure: dict[str, Any]) -> tuple[str, ...]:
    cpu, peak = figure["cpu_s_per_million"], figure["peak_rss_mb"]
    rates = figure["rates_per_s"]
    # An embedded run is one process, producer and sender alike.
    both = {"sender": cpu["embedded"]} if "embedded" in cpu else {}
    return (
        figure["work"],
        str(figure["batch_size"] or "fitting"),
        f"{figure['messages']:,}",
        f"**{figure['rate_per_s']:,}** ({min(rates):,} to {max(rates):,})",
        *(_cell({**cpu, **both}.get(name)) for name in ("producer", "sender", "rabbitmq", "redis")),
        _cell(peak.get("producer"), 0),
        _cell(peak.get("sender", peak.get("embedded")), 0),
    )


def _cell(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _conditions(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"Measured {results['measured_at']} on {machine['cores']} cores ({machine['cpu']}),"
        f" {machine['memory_gb']:g} GB, {machine['system']}, with everything on that machine; {packages}."
        f" Medians of {results['rounds']} rounds; {results['sender_concurrency']:,} slots a sender."
    )


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))

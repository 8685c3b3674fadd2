"""Writes the faults as a table to docs/reliability.md: `python -m tests.chaos.table RESULTS.json`."""

import json
import statistics
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"
PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
COLUMNS = (
    *("fault", "what is done", "runs", "strikes", "messages", "lost", "counted twice"),
    *("sent twice", "ambiguous", "recovered in s: median (longest)"),
)
LEFT = 2


def markdown(results: dict[str, Any]) -> str:
    """A row for each fault, and a line on the machine and the versions."""
    rules = ("---", "---", *["---:"] * (len(COLUMNS) - LEFT))
    by_fault = groupby(results["runs"], key=lambda run: run["fault"])
    rows = [COLUMNS, rules, *(_row(list(runs)) for _, runs in by_fault)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_conditions(results)}"


def into_page(page: str, table: str) -> str:
    """Replaces the table between the markers of a page. Raises ValueError if the page has no markers."""
    before, found, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"no {BEGIN} … {END} in the page")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _row(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    def total(name: str) -> str:
        return f"{sum(run[name] for run in runs):,}"

    recoveries = [recovery for run in runs for recovery in run["recovery_s"]]
    recovered = f"{statistics.median(recoveries):.1f} ({max(recoveries):.1f})" if recoveries else ""
    counts = ("strikes", "messages", "lost", "counted_twice", "sent_twice", "ambiguous")
    first = runs[0]
    return (first["fault"], first["description"], str(len(runs)), *map(total, counts), recovered)


def _conditions(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    notes = "".join(f"\n{fault}: {why}.\n" for fault, why in results["not_run"].items())
    troubles = sum(bool(run["troubles"]) for run in results["runs"])
    notes += "".join(f"\nBroken off: {what}.\n" for what in results["broken"])
    verdict = (
        "in all of them everything held" if not troubles else f"in {troubles} of them something did not hold"
    )
    return (
        f"{len(results['runs'])} runs of {results['measured_at']}, seeds from {results['seed']} on; {verdict}. "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']:g} GB, {machine['system']},"
        f" with everything on that machine; {packages}.\n{notes}"
    )


if __name__ == "__main__":
    PAGE.write_text(into_page(PAGE.read_text(), markdown(json.loads(Path(sys.argv[1]).read_text()))))

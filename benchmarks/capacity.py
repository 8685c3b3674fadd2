"""Puts the recorded figures into docs/capacity.md: `python -m benchmarks.capacity`, after latency, volumes and memory.

Each table stands between `<!-- NAME -->` and `<!-- end -->`, where NAME.json in docs/capacity holds its figures.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import latency, memory, volumes
from common.cli import EXIT_DONE, EXIT_FAILED

DOCS = Path(__file__).parent.parent / "docs"
PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "latency": latency.markdown,
    "volumes": volumes.markdown,
    "memory": memory.markdown,
}


def main() -> int:
    """Writes the page anew; what is not recorded stays as it is."""
    page = DOCS / "capacity.md"
    text = page.read_text()
    for name, markdown in PARTS.items():
        recorded = DOCS / "capacity" / f"{name}.json"
        if not recorded.exists():
            print(f"{recorded} is not there: run python -m benchmarks.{name}", file=sys.stderr)
            continue
        results = json.loads(recorded.read_text())
        text, found = filled(text, name, f"{markdown(results)}\n\n{conditions(results)}")
        if not found:
            print(f"{page} has no place for {name}", file=sys.stderr)
            return EXIT_FAILED
    page.write_text(text)
    return EXIT_DONE


def filled(text: str, name: str, table: str) -> tuple[str, bool]:
    """A page with a table put in its place, and whether there is such a place."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = place.subn(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    return new, count == 1


def conditions(results: dict[str, Any]) -> str:
    """A line on when, where and with what it was measured."""
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"Measured {results['measured_at']} on {machine['cores']} cores ({machine['cpu']}),"
        f" {machine['memory_gb']:g} GB, {machine['system']}, with everything on that machine; {packages}."
    )


if __name__ == "__main__":
    sys.exit(main())

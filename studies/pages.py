"""Puts the recorded figures into docs/capacity.md: `python -m studies.pages`, after latency, volumes and memory.

Each table stands between `<!-- NAME -->` and `<!-- end -->`, where NAME.json in docs/capacity holds its figures.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import studies.latency.__main__ as latency
from common.cli import EXIT_DONE, EXIT_FAILED
from studies.capacity import memory, volumes
from studies.page import conditions, filled

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "capacity.md"
END = "<!-- end -->"
PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "latency": latency.markdown,
    "volumes": volumes.markdown,
    "memory": memory.markdown,
}


def main() -> int:
    """Writes the page anew; what is not recorded stays as it is."""
    try:
        PAGE.write_text(with_tables(PAGE.read_text()))
    except ValueError as error:
        print(f"{PAGE}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE


def with_tables(page: str) -> str:
    """The page with what is recorded. Raises ValueError where it lacks a place for it."""
    for name, markdown in PARTS.items():
        recorded = DOCS / "capacity" / f"{name}.json"
        if not recorded.exists():
            print(f"{recorded} is not there: run make {name}", file=sys.stderr)
            continue
        results = json.loads(recorded.read_text())
        page = filled(page, f"<!-- {name} -->", END, f"{markdown(results)}\n\n{conditions(results)}")
    return page


if __name__ == "__main__":
    sys.exit(main())

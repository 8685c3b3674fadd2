"""What the commands of all benchmarks do: measure, keep the results, or say in a line why there are none."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from common.cli import EXIT_FAILED
from studies.process import BenchmarkFailed

Measurement = Coroutine[Any, Any, dict[str, Any]]


def measured_into(
    path: Path,
    prog: str,
    measurement: Measurement,
    run: Callable[[Measurement], dict[str, Any]] = asyncio.run,
) -> dict[str, Any]:
    """Measures, and writes the results as JSON; if a figure can't be had, `prog` says so and exits."""
    try:
        results = run(measurement)
    except BenchmarkFailed as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    return results

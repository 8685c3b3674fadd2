"""Measures the pipeline: one package for each study, on the modules that lie beside them.

`scale` and `stats` are commands of `smsim` and belong to the installed package. The others start servers of their own
by `tests/servers.py`, so they run from a checkout: `bench`, `gateway`, `latency` and `capacity`, each behind a target
of the Makefile. `retries` is a module by itself (docs/performance.md).
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "studies" / "results"

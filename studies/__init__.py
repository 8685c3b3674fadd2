"""Benchmarks on real servers and embedded: `python -m studies.bench`, described in docs/performance.md."""

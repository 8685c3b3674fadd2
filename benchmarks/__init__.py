"""Benchmarks on real servers and embedded: `python -m benchmarks.run`, described in docs/performance.md."""

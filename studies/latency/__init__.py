"""How long messages wait: `make latency`, `python -m studies.latency.lanes`."""

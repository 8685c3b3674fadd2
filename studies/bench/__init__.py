"""Ours against its peers: `make bench`, `make bench-smoke`."""

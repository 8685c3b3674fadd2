"""The gateway under load: `make bench-gateway`."""

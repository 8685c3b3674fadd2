"""The CPU time and memory of services and messages: `make volumes`, `make memory`."""

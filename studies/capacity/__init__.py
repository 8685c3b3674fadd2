"""What services and messages take of a machine: `make volumes`, `make memory`."""

"""The test ladder: unit, contract, service, end to end, chaos."""

"""The monitor: polls the ledger and shows the statistics."""

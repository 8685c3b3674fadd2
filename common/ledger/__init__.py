"""The ledger: the record of every message's state and of the counters, the only truth about a run."""

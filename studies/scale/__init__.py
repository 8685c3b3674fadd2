"""The scaling study, `smsim scale`: how throughput grows with the number of senders (docs/scaling.md)."""

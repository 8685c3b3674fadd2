"""Idempotency keys: the same key gives the same message, once."""

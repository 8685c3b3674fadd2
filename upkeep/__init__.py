"""Upkeep: audits the ledger, replays what failed, forgets what is over."""

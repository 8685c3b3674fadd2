"""Tracking: what a single message says, when each of its steps was, and events as they happen."""

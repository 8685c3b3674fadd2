"""Callbacks: whoever hands in a message may be told at an address of theirs what became of it."""

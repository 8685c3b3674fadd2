"""Tracking: numbers, texts and steps of single messages, kept for a while, and steps as they happen."""

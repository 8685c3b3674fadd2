"""The producer: makes messages from a source and publishes them, announced before and confirmed after."""

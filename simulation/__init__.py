"""Runs of the whole pipeline in one process: it composes the services, so it alone may import them all."""

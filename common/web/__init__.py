"""Shared by all HTTP services: server, limits, API keys, bodies, problems, OpenAPI."""

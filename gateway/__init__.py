"""The gateway: REST, live events and the dashboard."""

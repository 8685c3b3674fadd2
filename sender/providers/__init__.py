"""Providers: what sends one SMS."""

"""Contacts files and the templates that their columns fill."""

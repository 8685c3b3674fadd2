"""A made-up program that sends SMS, and its tests on the stand-in (docs/stand-in.md)."""

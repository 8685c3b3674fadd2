"""An example program that sends SMS, and its tests with the stand-in (docs/stand-in.md)."""

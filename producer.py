"""Runs the producer: `python producer.py --help`. The code is in the package `producer/`, which wins over this file on import."""

import sys

from producer.cli import main

if __name__ == "__main__":
    sys.exit(main())

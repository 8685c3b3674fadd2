"""Runs the producer; the code is in `producer/`, a package, which wins over this file on import."""

import sys

from producer.cli import main

if __name__ == "__main__":
    sys.exit(main())

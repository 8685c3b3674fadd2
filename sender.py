"""Runs the sender: `python sender.py --help`. The code is in the package `sender/`, which wins over this file on import."""

import sys

from sender.cli import main

if __name__ == "__main__":
    sys.exit(main())

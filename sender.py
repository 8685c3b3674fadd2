"""Runs the sender; the code is in `sender/`, a package, which wins over this file on import."""

import sys

from sender.cli import main

if __name__ == "__main__":
    sys.exit(main())

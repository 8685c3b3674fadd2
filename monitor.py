"""Runs the monitor: `python monitor.py --help`. The code is in the package `monitor/`, which wins over this file on import."""

import sys

from monitor.cli import main

if __name__ == "__main__":
    sys.exit(main())

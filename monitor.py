"""Runs the monitor; the code is in `monitor/`, a package, which wins over this file on import."""

import sys

from monitor.cli import main

if __name__ == "__main__":
    sys.exit(main())

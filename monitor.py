"""Runs the monitor; the code is in `monitor/`, a package, which wins over this file on import."""

import signal
import sys

if __name__ == "__main__":
    # Until the command takes over, so that Ctrl-C while importing has no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from monitor.cli import main

    sys.exit(main())

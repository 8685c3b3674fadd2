"""Runs the producer. The code is in the package `producer/`, which takes precedence over this file on import."""

import signal
import sys

if __name__ == "__main__":
    # No traceback for Ctrl-C during the import. The command sets a handler of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from producer.cli import main

    sys.exit(main())

"""Runs the producer; the code is in `producer/`, a package, which wins over this file on import."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until the command takes over: Ctrl-C while importing has no traceback

    from producer.cli import main

    sys.exit(main())

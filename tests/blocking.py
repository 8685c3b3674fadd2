"""Finds product code that blocks the event loop, by the calls it makes and not by the time they take."""

from blockbuster import BlockBuster, BlockBusterFunction

PRODUCT = ("common", "gateway", "monitor", "producer", "sender", "simulation", "upkeep")
# Runs the main coroutine of every command, those of the studies among them, which may block.
RUNNER = ("common.cli",)
WAITS = ("subprocess.Popen.wait", "subprocess.Popen.communicate", "threading.Thread.join")
# Small local files may be read in a coroutine (ASYNC240 in pyproject.toml).
FILES = ("os.", "io.")


def blocking_calls() -> BlockBuster:
    """A watch that raises `BlockingError` from a blocking call, if product code made it under a running event loop."""
    watch = BlockBuster(PRODUCT, excluded_modules=RUNNER)
    for name in [name for name in watch.functions if name.startswith(FILES)]:
        del watch.functions[name]
    for name in WAITS:
        watch.functions[name] = BlockBusterFunction(
            None, name, scanned_modules=PRODUCT, excluded_modules=RUNNER
        )
    return watch

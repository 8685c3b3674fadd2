"""`smsim`: one command with a subcommand for each job."""

import importlib
import signal
import sys
from typing import NamedTuple

from common.version import project_version


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        function: The function that runs it, as `module:name`; it takes argv and prog, and returns the exit code.
        summary: A line for the list of commands.
    """

    function: str
    summary: str


COMMANDS = {
    "simulate": Command("simulation.simulate:main", "run the whole pipeline in this process, with no server"),
    "produce": Command("producer.cli:main", "publish messages to RabbitMQ (also: python producer.py)"),
    "send": Command("sender.cli:main", "run a sender (also: python sender.py)"),
    "monitor": Command("monitor.cli:main", "show the statistics (also: python monitor.py)"),
    "gateway": Command("gateway.cli:main", "serve the REST API, live events and the dashboard"),
    "replay": Command("upkeep.cli:replay_main", "publish failed or rejected messages as a new run"),
    "audit": Command("upkeep.cli:audit_main", "recount the ledger and compare it with the queues"),
    "cancel": Command("upkeep.cli:cancel_main", "cancel what is queued of runs"),
    "forget": Command("upkeep.cli:forget_main", "remove settled runs from the ledger"),
    "keys": Command("gateway.keys.cli:main", "create, list and revoke the gateway's API keys"),
    "serve": Command("simulation.serve:main", "a local stand-in for an SMS service: REST, dashboard, inbox"),
    "scale": Command("studies.scale.cli:main", "measure and draw throughput by number of senders"),
    "stats": Command("studies.stats.cli:main", "measure and draw CPU and memory of services during a run"),
    "provider": Command("simulation.provider:main", "an SMS service over HTTP to send to"),
}


def main() -> int:
    """Runs the subcommand; returns its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        return _run(name, sys.argv[2:])
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"smsim {project_version()}")
        return 0
    problem = f"smsim: no command {name!r}\n" if name else ""
    print(f"{problem}{_usage()}", file=sys.stderr)
    return 2


def _run(name: str, argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C during the import
    module, _, function = COMMANDS[name].function.partition(":")
    run = getattr(importlib.import_module(module), function)
    return int(run(argv, f"smsim {name}"))


def _usage() -> str:
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: smsim COMMAND [--help]", "", *lines])


if __name__ == "__main__":
    sys.exit(main())

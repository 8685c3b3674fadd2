"""`smsim`: one command for all jobs, with a subcommand for each."""

import importlib
import signal
import sys

from common.version import project_version

# name: (function that does it, given argv and prog; what it does)
COMMANDS = {
    "simulate": ("simulation.simulate:main", "run the whole pipeline in this process, with no server"),
    "produce": ("producer.cli:main", "publish messages to RabbitMQ (also: python producer.py)"),
    "send": ("sender.cli:main", "run a sender (also: python sender.py)"),
    "monitor": ("monitor.cli:main", "show the statistics (also: python monitor.py)"),
    "gateway": ("gateway.cli:main", "serve the REST API, live events and the dashboard"),
    "replay": ("upkeep.cli:replay_main", "publish what failed, or was rejected, as a new run"),
    "audit": ("upkeep.cli:audit_main", "recount the ledger and compare it with the queues"),
    "forget": ("upkeep.cli:forget_main", "remove settled runs from the ledger"),
    "keys": ("gateway.keys.cli:main", "create, list and revoke the gateway's API keys"),
    "serve": ("simulation.serve:main", "a local stand-in for an SMS service: REST, dashboard, inbox"),
    "scale": ("studies.scale.cli:main", "measure throughput against the number of senders, and draw it"),
    "stats": ("studies.stats.cli:main", "sample CPU and memory of services during a run, and draw them"),
    "provider": ("simulation.provider:main", "a stand-in for an SMS service, over HTTP"),
}


def main() -> int:
    """Hands over to the subcommand; gives its exit code."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in COMMANDS:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while importing has no traceback
        module, _, function = COMMANDS[name][0].partition(":")
        return int(getattr(importlib.import_module(module), function)(rest, f"smsim {name}"))
    usage = "usage: smsim COMMAND [--help]\n\n" + "\n".join(
        f"  {n:<10}{what}" for n, (_, what) in COMMANDS.items()
    )
    if name in ("-h", "--help"):
        print(usage)
        return 0
    if name == "--version":
        print(f"smsim {project_version()}")
        return 0
    print(f"smsim: no command {name!r}\n{usage}" if name else usage, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

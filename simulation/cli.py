"""`smsim`: one command for all jobs, with a subcommand for each."""

import importlib
import signal
import sys

# name: (module whose main(argv, prog) does it, what it does)
COMMANDS = {
    "simulate": ("simulation.simulate", "run the whole pipeline in this process, with no server"),
    "produce": ("producer.cli", "publish messages to RabbitMQ (also: python producer.py)"),
    "send": ("sender.cli", "run a sender (also: python sender.py)"),
    "monitor": ("monitor.cli", "show the statistics (also: python monitor.py)"),
}


def main() -> int:
    """Hands over to the subcommand; gives its exit code."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in COMMANDS:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while importing has no traceback
        module = importlib.import_module(COMMANDS[name][0])
        return int(module.main(rest, f"smsim {name}"))
    usage = "usage: smsim COMMAND [--help]\n\n" + "\n".join(
        f"  {n:<10}{what}" for n, (_, what) in COMMANDS.items()
    )
    if name in ("-h", "--help"):
        print(usage)
        return 0
    print(f"smsim: no command {name!r}\n{usage}" if name else usage, file=sys.stderr)
    return 2

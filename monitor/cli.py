"""`python monitor.py`, `smsim monitor`: shows the statistics of a run, or of all."""

import argparse
import json
import sys

from common.cli import (
    Parser,
    add_connect_timeout,
    end_soon_after,
    number,
    run_command,
    run_id,
    stop_on_signals,
    warn_of_near_misses,
)
from common.ledger.port import Reports
from common.logs import configure_logs
from common.metrics import metrics_served, new_registry
from common.settings import Settings, load_settings
from common.statistics import statistics
from common.stores import connect_stores
from monitor.metrics import PipelineMetrics
from monitor.rejected import RejectedQueue
from monitor.service import Complete, as_it_is, log_statistics, show_live


def main(argv: list[str] | None = None, prog: str = "monitor.py") -> int:
    """Reads the arguments and shows the statistics until SIGTERM or Ctrl-C, or once."""
    parser = Parser(prog, "Logs the statistics as a JSON line each interval.")
    parser.add_argument(
        "--update-interval", type=number(0.05, 86_400), help="seconds (MONITOR_UPDATE_INTERVAL)"
    )
    parser.add_argument("--run", type=run_id, metavar="RUN", help="the statistics of this run only")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print one snapshot as JSON on stdout and exit")
    how.add_argument("--live", action="store_true", help="a view on the terminal that redraws")
    add_connect_timeout(parser)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = load_settings(monitor_update_interval=args.update_interval)
        result_on_stdout = args.once or args.live
        stream = sys.stderr if result_on_stdout else sys.stdout
        configure_logs("monitor", settings.log_level, settings.log_file, stream)
        warn_of_near_misses()
        return await _watch(args, settings)

    return run_command(prog, run)


async def _watch(args: argparse.Namespace, settings: Settings) -> int:
    async with (
        await connect_stores(settings, args.connect_timeout) as stores,
        RejectedQueue(settings) as rejected,
    ):
        ledger = stores.ledger
        complete = as_it_is if args.run else rejected.complete
        if args.once:
            now = await complete(await ledger.snapshot(args.run))
            print(json.dumps(statistics(now).as_json()), flush=True)
        elif args.live:
            stop = stop_on_signals()
            await end_soon_after(stop, show_live(ledger, args.run, stop, complete=complete))
        else:
            await _log(ledger, args.run, settings, complete)
    return 0


async def _log(ledger: Reports, run: str | None, settings: Settings, complete: Complete) -> None:
    """Logs the statistics and serves them as metrics. Metrics are of all runs, so a monitor of one run has none."""
    metrics, stop = PipelineMetrics(), stop_on_signals()
    if run is not None:
        settings = settings.model_copy(update={"metrics_port": None})
    async with metrics_served(settings, new_registry("monitor", metrics)):
        interval_s = settings.monitor_update_interval
        job = log_statistics(
            ledger, run, interval_s, stop=stop, on_snapshot=metrics.update, complete=complete
        )
        await end_soon_after(stop, job)

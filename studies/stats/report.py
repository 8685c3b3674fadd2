"""What a study leaves behind: files in a folder, and a summary."""

import csv
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import SmsimError
from studies.stats.charts import draw_usage, draw_volumes
from studies.stats.figures import cpu_percent, services_of, shares
from studies.stats.sampling import Sampler
from studies.stats.study import Run
from studies.stats.usage import Tick


class NotWritten(SmsimError):
    """The results can't be written: see to the folder and the space in it, or choose another (exit code 1)."""


def write(folder: Path, sampler: Sampler, runs: Sequence[Run]) -> dict[str, Any]:
    """Writes samples and charts; gives the summary. Raises NotWritten."""
    try:
        files = _write(folder, sampler, runs)
    except OSError as error:
        raise NotWritten(f"{error.filename or folder}: can't be written: {error.strerror or error}") from None
    return {**_summary(sampler, runs), "files": [str(file) for file in files]}


def _write(folder: Path, sampler: Sampler, runs: Sequence[Run]) -> list[Path]:
    ticks = sampler.ticks
    files = [folder / "samples.csv"]
    _write_samples(files[0], ticks, sampler.interval_s)
    files += draw_usage(ticks, runs, sampler.interval_s, folder)
    if any(run.volume is not None for run in runs):
        files.append(folder / "volumes.csv")
        _write_volumes(files[-1], ticks, runs)
        files += draw_volumes(ticks, runs, folder)
    return files


def table(summary: dict[str, Any]) -> str:
    """The summary for people."""
    lines = []
    for run in summary["runs"]:
        size = f"{run['volume']:,} messages in " if run["volume"] is not None else ""
        lines.append(f"{size}{run['elapsed_s']:.2f} s{_ending(run['exit_code'])}")
        lines.append(f"  {'service':<16}{'CPU s':>9}{'CPU %':>8}{'peak MB':>10}{'before':>9}{'after':>9}")
        for name, share in run["services"].items():
            cells = (share["cpu_percent"], share["peak_mb"], share["before_mb"], share["after_mb"])
            widths = zip(cells, (8, 10, 9, 9), strict=True)
            rest = "".join(
                f"{'-' if cell is None else format(cell, '.1f'):>{width}}" for cell, width in widths
            )
            lines.append(f"  {name:<16}{share['cpu_s']:>9.2f}{rest}")
    if summary["skipped"]:
        lines.append(f"{summary['skipped']} looks left out: the Docker engine did not answer in time")
    lines += [f"{name} ended after {at_s:.1f} s" for name, at_s in summary["ended_s"].items()]
    lines += ["written: " + " ".join(summary["files"])]
    return "\n".join(lines)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f", ended by {signal.Signals(-code).name}"
    return f", exit code {code}" if code else ""


def _summary(sampler: Sampler, runs: Sequence[Run]) -> dict[str, Any]:
    """The runs with the shares of all services, and which services ended when, in seconds after the first sample."""
    return {
        "runs": [
            {
                "volume": run.volume,
                "elapsed_s": run.elapsed_s,
                "exit_code": run.code,
                "services": {name: asdict(share) for name, share in shares(sampler.ticks, run).items()},
            }
            for run in runs
        ],
        "samples": len(sampler.ticks),
        "skipped": sampler.skipped,
        "ended_s": {name: round(at_s, 3) for name, at_s in sampler.ended_s.items()},
    }


def _write_samples(file: Path, ticks: Sequence[Tick], interval_s: float) -> None:
    """One row a sample of a service: `cpu_s` is cumulative."""
    percents = {name: cpu_percent(ticks, name, interval_s) for name in services_of(ticks)}
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["at_s", "volume", "phase", "service", "cpu_s", "cpu_percent", "memory_bytes"])
        rows.writerows(_rows(ticks, percents))


def _rows(ticks: Sequence[Tick], percents: dict[str, list[float | None]]) -> Iterator[list[Any]]:
    for number, tick in enumerate(ticks):
        for name, usage in tick.usage.items():
            percent = percents[name][number]
            yield [
                round(tick.at_s, 3),
                tick.volume,
                tick.phase,
                name,
                round(usage.cpu_s, 3),
                None if percent is None else round(percent, 1),
                usage.memory_bytes,
            ]


def _write_volumes(file: Path, ticks: Sequence[Tick], runs: Sequence[Run]) -> None:
    """One row a service in a run."""
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(
            ["volume", "elapsed_s", "service", "cpu_s", "cpu_percent", "peak_mb", "before_mb", "after_mb"]
        )
        for run in runs:
            for name, share in shares(ticks, run).items():
                rows.writerow([run.volume, run.elapsed_s, name, *asdict(share).values()])

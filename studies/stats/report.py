"""The results of a study: files in a folder, and a summary."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from studies.record import write_csv
from studies.stats.charts import draw_usage, draw_volumes
from studies.stats.figures import Share, cpu_percent, services_of, shares
from studies.stats.sampling import Sample, Sampler
from studies.stats.study import Run


class RunSummary(msgspec.Struct, frozen=True):
    """A run, with the share of each service.

    Attributes:
        volume, elapsed_s, exit_code: As in `Run`.
        services: The shares by service.
    """

    volume: int | None
    elapsed_s: float
    exit_code: int | None
    services: dict[str, Share]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The summary that is printed.

    Attributes:
        runs: The runs.
        samples, skipped: How many samples were taken, and how many skipped.
        ended_s: When services ended, in seconds since the first sample.
        files: The files that were written.
    """

    runs: list[RunSummary]
    samples: int
    skipped: int
    ended_s: dict[str, float]
    files: list[str]


def write(folder: Path, sampler: Sampler, runs: Sequence[Run]) -> Summary:
    """Writes samples and charts. Raises NotWritten."""
    samples, interval_s = sampler.samples, sampler.timing.interval_s
    summaries = [RunSummary(run.volume, run.elapsed_s, run.code, shares(samples, run)) for run in runs]
    files = [write_csv(folder / "samples.csv", list(_sample_rows(samples, interval_s)))]
    files += draw_usage(samples, runs, interval_s, folder)
    if any(run.volume is not None for run in runs):
        files.append(write_csv(folder / "volumes.csv", list(_volume_rows(summaries))))
        files += draw_volumes(samples, runs, folder)
    return Summary(
        runs=summaries,
        samples=len(samples),
        skipped=sampler.skipped,
        ended_s={name: round(at_s, 3) for name, at_s in sampler.ended_s.items()},
        files=[str(file) for file in files],
    )


def text(summary: Summary) -> str:
    """The summary for people."""
    lines = []
    for run in summary.runs:
        size = f"{run.volume:,} messages in " if run.volume is not None else ""
        lines.append(f"{size}{run.elapsed_s:.2f} s{_ending(run.exit_code)}")
        lines.append(f"  {'service':<16}{'CPU s':>9}{'CPU %':>8}{'peak MB':>10}{'before':>9}{'after':>9}")
        for name, share in run.services.items():
            lines.append(
                f"  {name:<16}{share.cpu_s:>9.2f}{_cell(share.cpu_percent):>8}{_cell(share.peak_mb):>10}"
                f"{_cell(share.before_mb):>9}{_cell(share.after_mb):>9}"
            )
    if summary.skipped:
        lines.append(f"{summary.skipped} samples skipped: the Docker engine did not answer in time")
    lines += [f"{name} ended after {at_s:.1f} s" for name, at_s in summary.ended_s.items()]
    lines += ["written: " + " ".join(summary.files)]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f", ended by {signal.Signals(-code).name}"
    return f", exit code {code}" if code else ""


def _sample_rows(samples: Sequence[Sample], interval_s: float) -> Iterator[dict[str, object]]:
    """A row for each service in each sample; `cpu_s` is cumulative."""
    percents = {name: cpu_percent(samples, name, interval_s) for name in services_of(samples)}
    for number, sample in enumerate(samples):
        for name, usage in sample.usage.items():
            percent = percents[name][number]
            yield {
                "at_s": round(sample.at_s, 3),
                "volume": sample.volume,
                "phase": sample.phase,
                "service": name,
                "cpu_s": round(usage.cpu_s, 3),
                "cpu_percent": None if percent is None else round(percent, 1),
                "memory_bytes": usage.memory_bytes,
            }


def _volume_rows(runs: Sequence[RunSummary]) -> Iterator[dict[str, object]]:
    """A row for each service in each run."""
    for run in runs:
        for name, share in run.services.items():
            row = {"volume": run.volume, "elapsed_s": run.elapsed_s, "service": name}
            yield row | msgspec.structs.asdict(share)

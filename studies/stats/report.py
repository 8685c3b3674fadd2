"""The results of a study: files in a folder, and a summary."""

import csv
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from studies.record import not_written
from studies.stats.charts import draw_usage, draw_volumes
from studies.stats.figures import Share, cpu_percent, services_of, shares
from studies.stats.sampling import Sample, Sampler
from studies.stats.study import Run

SAMPLE_COLUMNS = ("at_s", "volume", "phase", "service", "cpu_s", "cpu_percent", "memory_bytes")
VOLUME_COLUMNS = ("volume", "elapsed_s", "service", *Share.__struct_fields__)


class RunSummary(msgspec.Struct, frozen=True):
    """A run, with what each service used.

    Attributes:
        volume: Its size.
        elapsed_s: How long it took.
        exit_code: The command's exit code.
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
        samples: How many samples were taken.
        skipped: How many samples were skipped.
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
    files = [_write_csv(folder / "samples.csv", SAMPLE_COLUMNS, _sample_rows(samples, interval_s))]
    files += draw_usage(samples, runs, interval_s, folder)
    if any(run.volume is not None for run in runs):
        files.append(_write_csv(folder / "volumes.csv", VOLUME_COLUMNS, _volume_rows(summaries)))
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


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    try:
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(columns)
            writer.writerows(rows)
    except OSError as error:
        raise not_written(error, file) from None
    return file


def _sample_rows(samples: Sequence[Sample], interval_s: float) -> Iterator[Sequence[object]]:
    """A row for each service in each sample; `cpu_s` is cumulative."""
    percents = {name: cpu_percent(samples, name, interval_s) for name in services_of(samples)}
    for number, sample in enumerate(samples):
        for name, usage in sample.usage.items():
            percent = percents[name][number]
            yield (
                round(sample.at_s, 3),
                sample.volume,
                sample.phase,
                name,
                round(usage.cpu_s, 3),
                None if percent is None else round(percent, 1),
                usage.memory_bytes,
            )


def _volume_rows(runs: Sequence[RunSummary]) -> Iterator[Sequence[object]]:
    """A row for each service in each run."""
    for run in runs:
        for name, share in run.services.items():
            yield (run.volume, run.elapsed_s, name, *msgspec.structs.astuple(share))

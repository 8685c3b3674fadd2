"""Charts of the samples: over time, and against the volume of the runs."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

from matplotlib.axes import Axes

from studies.charts import THOUSANDS, chart
from studies.meter import MB
from studies.stats.figures import cpu_percent, services_of, shares
from studies.stats.sampling import Sample
from studies.stats.study import Run

# CPU time below this is mostly rounding to clock ticks; the logarithmic axis is linear there.
LEAST_CPU_S = 0.01


def draw_usage(samples: Sequence[Sample], runs: Sequence[Run], interval_s: float, folder: Path) -> list[Path]:
    """CPU and memory over time, a line for each service; runs are shaded. Raises NotWritten."""
    with chart(folder, "usage", size=(10, 6), panels=(2, 1), sharex=True) as (_, (cpu, memory), paths):
        times = [sample.at_s for sample in samples]
        for name in services_of(samples):
            percents = cpu_percent(samples, name, interval_s)
            cpu.plot(times, [nan if percent is None else percent for percent in percents], label=name)
            memory.plot(times, [_memory_mb(sample, name) for sample in samples], label=name)
        for run in runs:
            # A run without samples, or one that is all of them, has nothing to be told apart from.
            if 0 < run.beyond - run.first < len(samples):
                _shade(run, samples, cpu, memory)
        cpu.set_ylabel("CPU, % of a core")
        memory.set(xlabel="seconds", ylabel="memory, MB")
        _finish(cpu, memory)
    return paths


def draw_volumes(samples: Sequence[Sample], runs: Sequence[Run], folder: Path) -> list[Path]:
    """CPU time and peak memory against the volume, a line for each service. Raises NotWritten."""
    found = [(run.volume, shares(samples, run)) for run in runs if run.volume is not None]
    with chart(folder, "volumes", size=(10, 4.5), panels=(1, 2)) as (_, (cpu, memory), paths):
        for name in services_of(samples):
            present = [(volume, of[name]) for volume, of in found if name in of]
            volumes = [volume for volume, _ in present]
            cpu.plot(volumes, [share.cpu_s for _, share in present], marker="o", label=name)
            memory.plot(volumes, [share.peak_mb for _, share in present], marker="o", label=name)
        memory.set_ylabel("peak of memory, MB")
        most_s = max((share.cpu_s for _, of in found for share in of.values()), default=0.0)
        _set_scales(cpu, memory, most_s)
    return paths


def _set_scales(cpu: Axes, memory: Axes, most_s: float) -> None:
    for panel in cpu, memory:
        panel.set(xscale="log", xlabel="messages in the run")
        panel.xaxis.set_major_formatter(THOUSANDS)
    _finish(cpu, memory)
    cpu.set_ylabel("CPU seconds")
    cpu.set_yscale("symlog", linthresh=LEAST_CPU_S)
    cpu.yaxis.set_major_formatter(THOUSANDS)
    cpu.set_ylim(0, 2 * max(most_s, LEAST_CPU_S))


def _memory_mb(sample: Sample, name: str) -> float:
    return sample.usage[name].memory_bytes / MB if name in sample.usage else nan


def _shade(run: Run, samples: Sequence[Sample], *panels: Axes) -> None:
    begins_s, ends_s = samples[run.first].at_s, samples[run.beyond - 1].at_s
    for panel in panels:
        panel.axvspan(begins_s, ends_s, color="grey", alpha=0.15, linewidth=0)
    if run.volume is not None:
        panels[0].annotate(
            f"{run.volume:,}",
            xy=((begins_s + ends_s) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
        )


def _finish(*panels: Axes) -> None:
    for panel in panels:
        panel.set_ylim(bottom=0)
    if panels[0].lines:
        panels[0].legend(loc="upper left")

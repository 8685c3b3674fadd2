"""Draws what was sampled: over time, and against the volume of the runs."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from studies.charts import save_chart
from studies.stats.figures import MB, cpu_percent, services_of, shares
from studies.stats.study import Run
from studies.stats.usage import Tick

# Below this, CPU time is mostly the clock tick it is counted in; the logarithmic axis is linear there.
LEAST_CPU_S = 0.01


def draw_usage(ticks: Sequence[Tick], runs: Sequence[Run], interval_s: float, folder: Path) -> list[Path]:
    """CPU over memory over time, a line a service, each run shaded: usage.png and usage.svg."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    cpu, memory = figure.subplots(2, 1, sharex=True)
    times = [tick.at_s for tick in ticks]
    for name in services_of(ticks):
        percents = cpu_percent(ticks, name, interval_s)
        cpu.plot(
            times, [nan if percent is None else percent for percent in percents], label=name, linewidth=1.2
        )
        held = [tick.usage[name].memory_bytes / MB if name in tick.usage else nan for tick in ticks]
        memory.plot(times, held, label=name, linewidth=1.2)
    for run in runs:
        if run.beyond == run.first:
            continue
        if run.beyond - run.first == len(ticks):
            break  # nothing was sampled before and after it
        begins, ends = ticks[run.first].at_s, ticks[run.beyond - 1].at_s
        for panel in cpu, memory:
            panel.axvspan(begins, ends, color="grey", alpha=0.15, linewidth=0)
        if run.volume is not None:
            place = {"xy": ((begins + ends) / 2, 1), "xycoords": ("data", "axes fraction")}
            cpu.annotate(f"{run.volume:,}", **place, xytext=(0, 3), textcoords="offset points", ha="center")
    cpu.set_ylabel("CPU, % of a core")
    memory.set_ylabel("memory, MB")
    memory.set_xlabel("seconds")
    _finish(cpu, memory)
    return save_chart(figure, folder, "usage")


def draw_volumes(ticks: Sequence[Tick], runs: Sequence[Run], folder: Path) -> list[Path]:
    """CPU seconds and the peak of memory against the volume, a line a service: volumes.png and volumes.svg."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    cpu, memory = figure.subplots(1, 2)
    found = [(run.volume, shares(ticks, run)) for run in runs]
    for name in services_of(ticks):
        there = [(volume, of[name]) for volume, of in found if volume is not None and name in of]
        volumes = [volume for volume, _ in there]
        cpu.plot(volumes, [share.cpu_s for _, share in there], marker="o", markersize=4, label=name)
        memory.plot(volumes, [share.peak_mb for _, share in there], marker="o", markersize=4, label=name)
    for panel in cpu, memory:
        panel.set_xscale("log")
        panel.set_xlabel("messages in the run")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda volume, _: f"{volume:,.0f}"))
    cpu.set_yscale("symlog", linthresh=LEAST_CPU_S)
    cpu.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    cpu.set_ylabel("CPU seconds")
    memory.set_ylabel("peak of memory, MB")
    _finish(cpu, memory)
    most_s = max((share.cpu_s for _, of in found for share in of.values()), default=0)
    cpu.set_ylim(0, 2 * max(most_s, LEAST_CPU_S))
    return save_chart(figure, folder, "volumes")


def _finish(*panels: Axes) -> None:
    for panel in panels:
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, alpha=0.2)
    if panels[0].lines:
        panels[0].legend(loc="upper left", fontsize="small")

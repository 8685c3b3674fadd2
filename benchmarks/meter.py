"""CPU time and memory of processes between two moments."""

import contextlib

import psutil


class Meter:
    """Watches processes by name; `sample` it often, since only the operating system's present figures can be had."""

    def __init__(self, **processes: psutil.Process) -> None:
        self._processes = processes
        self._began = dict.fromkeys(processes, 0.0)
        self._latest = dict.fromkeys(processes, 0.0)
        self._peak = dict.fromkeys(processes, 0)

    def start(self) -> None:
        """CPU time counts from here."""
        self.sample()
        self._began = dict(self._latest)

    def sample(self) -> None:
        """Looks at all of them once."""
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._latest[name] = times.user + times.system
                self._peak[name] = max(self._peak[name], process.memory_info().rss)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since `start`, of each."""
        return {name: self._latest[name] - began for name, began in self._began.items()}

    def peak_mb(self) -> dict[str, float]:
        """The largest resident set seen, of each, in MB (10^6 bytes)."""
        return {name: peak / 1e6 for name, peak in self._peak.items()}

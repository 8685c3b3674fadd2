"""CPU time and memory of processes between two moments."""

import contextlib
import time

import psutil

# How often new children are looked for: that means reading the system's whole process table.
LOOK_FOR_CHILDREN_S = 0.5


class Meter:
    """Watches processes, each with its children, by name.

    `sample` it often, since only the operating system's present figures can be had.
    """

    def __init__(self, **processes: psutil.Process) -> None:
        self._trees = {name: _Tree(process) for name, process in processes.items()}

    def start(self) -> None:
        """CPU time and the peak of memory count from here."""
        for tree in self._trees.values():
            tree.peak_bytes = 0
            tree.sample()
            tree.began_s = tree.cpu_s

    def sample(self) -> None:
        """Looks at all of them once."""
        for tree in self._trees.values():
            tree.sample()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since `start`, of each."""
        return {name: tree.cpu_s - tree.began_s for name, tree in self._trees.items()}

    def peak_mb(self) -> dict[str, float]:
        """The largest resident set seen, of each, in MB (10^6 bytes): of its processes together, seen at one moment."""
        return {name: tree.peak_bytes / 1e6 for name, tree in self._trees.items()}


class _Tree:
    """A process and its children, of whatever generation."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._members = [process]
        self._cpu_s: dict[int, float] = {}
        self._looked_at = 0.0
        self.began_s = 0.0
        self.peak_bytes = 0

    @property
    def cpu_s(self) -> float:
        """Of all that were ever seen, at the last look at each."""
        return sum(self._cpu_s.values())

    def sample(self) -> None:
        """Looks at all of them once."""
        self._look_for_children()
        together = 0
        for member in self._members:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                self._cpu_s[member.pid] = times.user + times.system
                together += member.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, together)

    def _look_for_children(self) -> None:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_FOR_CHILDREN_S:
            self._looked_at = now
            with contextlib.suppress(psutil.NoSuchProcess):
                self._members = [self._process, *self._process.children(recursive=True)]

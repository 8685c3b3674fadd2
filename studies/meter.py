"""The one sampler: CPU time and memory of processes, each with its descendants."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

MB = 10**6

Children = dict[int, list[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time and memory of a service.

    Attributes:
        cpu_s: CPU time since some fixed moment, in seconds. It never falls.
        memory_bytes: Resident memory now. Shared pages count for each process that maps them.
    """

    cpu_s: float
    memory_bytes: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.cpu_s + other.cpu_s, self.memory_bytes + other.memory_bytes)


class Meter:
    """Samples named processes; processes of one name count together. Call `sample` often: there is no history to read.

    Args:
        pids: The processes, by name.
        children_every_s: How often to look for new children, which means reading the whole process table.
    """

    def __init__(self, pids: Mapping[str, int] | None = None, *, children_every_s: float = 0.5) -> None:
        self._trees: dict[str, list[_Tree]] = {}
        self._children: Children = {}
        self._children_every_s = children_every_s
        self._children_due_s = 0.0
        self._began_s: dict[str, float] = {}
        self._peak_bytes: dict[str, int] = {}
        for name, pid in (pids or {}).items():
            self.add(name, psutil.Process(pid))

    def add(self, name: str, process: psutil.Process) -> None:
        """Samples this process, too."""
        self._trees.setdefault(name, []).append(_Tree(process))

    def start(self) -> None:
        """CPU time and peak memory count from here."""
        self._peak_bytes = {}
        self._began_s = {name: usage.cpu_s for name, usage in self.sample().items()}

    def sample(self) -> dict[str, Usage]:
        """The present usage by name. A name is missing once all its processes have ended."""
        self._look_for_children()
        found = {}
        for name, trees in self._trees.items():
            memory = [tree.sample(self._children) for tree in trees]
            if any(held is not None for held in memory):
                found[name] = Usage(_cpu_s_of(trees), sum(held or 0 for held in memory))
                self._peak_bytes[name] = max(self._peak_bytes.get(name, 0), found[name].memory_bytes)
        return found

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds from `start` to the last sample."""
        return {name: _cpu_s_of(trees) - self._began_s.get(name, 0.0) for name, trees in self._trees.items()}

    def peak_bytes(self) -> dict[str, int]:
        """The most memory sampled since `start`."""
        return {name: self._peak_bytes.get(name, 0) for name in self._trees}

    def peak_mb(self) -> dict[str, float]:
        """The same in MB (10^6 bytes)."""
        return {name: peak / MB for name, peak in self.peak_bytes().items()}

    def _look_for_children(self) -> None:
        now = time.monotonic()
        if now < self._children_due_s:
            return
        self._children_due_s = now + self._children_every_s
        self._children = {}
        for process in psutil.process_iter(["ppid"]):
            self._children.setdefault(process.info["ppid"], []).append(process)


class _Tree:
    """A process and its descendants."""

    def __init__(self, root: psutil.Process) -> None:
        self.cpu_s = 0.0
        self._root = root
        self._ended = False

    def sample(self, children: Children) -> int | None:
        """Updates `cpu_s`. Returns the resident bytes: 0 when the root is first seen to have ended, then None."""
        if self._ended:
            return None
        cpu_s, memory = 0.0, 0
        for process in self._members(children):
            try:
                # A zombie still has its CPU time. Once its parent has reaped it, the parent has that time.
                cpu_s += _process_cpu_s(process)
                memory += process.memory_info().rss
            except psutil.Error:
                continue
        self.cpu_s = max(self.cpu_s, cpu_s)
        self._ended = self._is_over()
        return 0 if self._ended else memory

    def _members(self, children: Children) -> Iterator[psutil.Process]:
        todo = [self._root]
        while todo:
            process = todo.pop()
            yield process
            todo += children.get(process.pid, [])

    def _is_over(self) -> bool:
        try:
            return not self._root.is_running() or bool(self._root.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def _cpu_s_of(trees: list[_Tree]) -> float:
    return sum(tree.cpu_s for tree in trees)


def _process_cpu_s(process: psutil.Process) -> float:
    """User and system time, including reaped children where the system counts them."""
    times = process.cpu_times()
    reaped = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + reaped)

"""Processes of this machine under watch, each with its children."""

from collections.abc import Iterator

import psutil

from common.errors import UsageError
from studies.stats.usage import Usage, service_name

Children = dict[int, list[psutil.Process]]


class Processes:
    """Looks at processes by name; children count with their parent, also those that have ended."""

    def __init__(self) -> None:
        self._trees: dict[str, list[_Tree]] = {}

    def add(self, pid: int, name: str | None = None) -> str:
        """Watches a process from now on; gives its name: that given, or the program's. Raises UsageError."""
        try:
            process = psutil.Process(pid)
            name = name or service_name(process.name(), process.cmdline())
        except psutil.NoSuchProcess:
            raise UsageError(f"no process {pid}: it may have ended") from None
        except psutil.AccessDenied:
            raise UsageError(f"process {pid} may not be looked at: run this as its user") from None
        self._trees.setdefault(name, []).append(_Tree(process))
        return name

    async def look(self) -> dict[str, Usage]:
        # One pass over the process table serves all of them.
        children: Children = {}
        for process in psutil.process_iter(["ppid"]):
            children.setdefault(process.info["ppid"], []).append(process)
        found = {}
        for name, trees in self._trees.items():
            memory = [tree.look(children) for tree in trees]
            if any(held is not None for held in memory):
                found[name] = Usage(sum(tree.cpu_s for tree in trees), sum(held or 0 for held in memory))
        return found


class _Tree:
    """A process and its children, of whatever generation."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self.cpu_s = 0.0
        self._ended = False

    def look(self, children: Children) -> int | None:
        """Brings `cpu_s` up to date; gives the resident bytes of all together, 0 when it is first seen to have ended,
        and then None.
        """
        if self._ended:
            return None
        cpu_s, memory = 0.0, 0
        for process in self._family(children):
            try:
                # A zombie still tells its CPU time; once its parent has taken note of it, that stands with the parent.
                cpu_s += _cpu_s(process)
                memory += process.memory_info().rss
            except psutil.Error:
                continue
        self.cpu_s = max(self.cpu_s, cpu_s)
        self._ended = self._over()
        return 0 if self._ended else memory

    def _family(self, children: Children) -> Iterator[psutil.Process]:
        todo = [self._root]
        while todo:
            process = todo.pop()
            yield process
            todo += children.get(process.pid, [])

    def _over(self) -> bool:
        try:
            return not self._root.is_running() or bool(self._root.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def _cpu_s(process: psutil.Process) -> float:
    """User and system time of a process, and of those children that it has waited for where the system tells it."""
    times = process.cpu_times()
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)

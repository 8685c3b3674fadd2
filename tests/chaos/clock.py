"""A wall clock that the suite can move for its processes, independent of the machine's."""

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class NoCompilerError(RuntimeError):
    """There is no C compiler to build the clock."""


class Clock:
    """The time of day of processes that start with `env`: the machine's plus `jump_s`.

    Linux only. Raises NoCompilerError.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise NoCompilerError("clock jumps need a C compiler (cc), and there is none")
        library, self._file = folder / "clock.so", folder / "clock"
        self._file.write_bytes(bytes(8))
        build = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(build, check=True, capture_output=True)
        self.env = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def set(self, jump_s: float) -> None:
        """Moves the clock, also of running processes."""
        with self._file.open("r+b") as file:  # in place: the processes have mapped this file
            file.write(struct.pack("=q", round(jump_s * 1e6)))

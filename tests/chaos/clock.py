"""A wall clock for processes that the suite can move, while that of the machine stays as it is."""

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class NoCompilerError(RuntimeError):
    """There is no C compiler to build the clock with."""


class Clock:
    """What processes that are started with `env` take for the time of day: the machine's, and `jump_s` more.

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
        """Moves the clocks, of processes that run already too."""
        with self._file.open("r+b") as file:  # in place: the processes have this very file before them
            file.write(struct.pack("=q", round(jump_s * 1e6)))

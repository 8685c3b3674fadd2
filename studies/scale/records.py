"""The points measured so far: a JSON file with their conditions, and a CSV file with a row a point.

A sweep that is started again measures only the missing points, and only under the same conditions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from common.errors import UsageError
from studies import record
from studies.record import Machine, Record
from studies.scale.points import LoadParameters, LoadPoint, Parameters, Point, Result, Sends

PACKAGES = ("sms-simulator", "numpy", "uvloop", "msgspec")


R = TypeVar("R", bound=Result)
P = TypeVar("P", bound=Sends)


class Sweep(Record, Generic[P, R], frozen=True, kw_only=True):
    """A sweep, finished or not.

    Attributes:
        measured_until: The date of the latest point, in UTC.
        parameters: The conditions that the user chose.
        points: The points measured so far.
    """

    measured_until: str
    parameters: P
    points: list[R]

    @property
    def conditions(self) -> str:
        """When, where and with what it was measured, in sentences."""
        dates, sends = dict.fromkeys([self.measured_at, self.measured_until]), self.parameters
        return (
            f"{record.conditions(' to '.join(dates), self.machine, self.versions)} {sends.load}; sends of"
            f" {sends.mean_s:g} s ± {sends.stddev_s:g} s, of which {100 * sends.failure_rate:g} % fail."
        )

    def check_same(self, there: "Sweep[P, R]", file: Path) -> None:
        """Raises UsageError if another sweep, in a file, was measured under other conditions."""
        ours: dict[str, Any] = msgspec.to_builtins(self)
        theirs: dict[str, Any] = msgspec.to_builtins(there)
        for part in ("parameters", "machine", "versions"):
            for name in sorted({*ours[part], *theirs[part]}):
                now, then = ours[part].get(name), theirs[part].get(name)
                if now != then:
                    raise UsageError(
                        f"{file} was measured with {name} {then}, not {now}: choose another --out, or start over"
                        " by --fresh"
                    )


EmbeddedSweep = Sweep[Parameters, Point]
DistributedSweep = Sweep[LoadParameters, LoadPoint]


class Records(Generic[P, R]):
    """The files of one sweep. Raises UsageError if they can't be used, or were measured under other conditions.

    Args:
        folder: Where `<name>.json` and `<name>.csv` are.
        name: The name of the sweep.
        kind: Its type.
        parameters: Its parameters.
        servers: The versions of the servers.
        fresh: Whether to start over.
        today: The date, in UTC.

    Attributes:
        csv: The CSV file.
        sweep: The points measured so far.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        kind: type[Sweep[P, R]],
        *,
        parameters: P,
        servers: dict[str, str] | None = None,
        fresh: bool = False,
        today: Callable[[], str] = record.today,
    ) -> None:
        self.csv = folder / f"{name}.csv"
        self.sweep: Sweep[P, R] = kind(
            measured_at=today(),
            measured_until=today(),
            machine=Machine.here(),
            versions=record.versions(PACKAGES) | (servers or {}),
            parameters=parameters,
            points=[],
        )
        self._file = folder / f"{name}.json"
        self._today = today
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}: choose another --out") from None
        if self._file.exists():
            there = record.read(self._file, kind)
            self.sweep.check_same(there, self._file)
            self.sweep = there

    @property
    def measured(self) -> set[str]:
        """The names of the points that are measured."""
        return {point.name for point in self.sweep.points}

    def add(self, point: R) -> None:
        """Keeps a point that was measured now; it is on disk when this returns. Raises NotWritten."""
        # With six digits; counts and bytes are whole numbers and stay.
        kept = msgspec.convert(_rounded(msgspec.to_builtins(point)), type(point))
        begun = self.sweep.measured_at if self.sweep.points else self._today()
        self.sweep = msgspec.structs.replace(
            self.sweep,
            measured_at=begun,
            measured_until=self._today(),
            points=[*self.sweep.points, kept],
        )
        record.write(self._file, self.sweep)
        record.write_csv(self.csv, [_rounded(one.columns()) for one in self.sweep.points])


def _rounded(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in columns.items()}

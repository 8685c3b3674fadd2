"""Filters: which events a subscriber wants."""

import re
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from common.messages import MAX_SEQ, is_run_id
from common.tracking.port import Status, Step
from common.web.problems import FieldError
from common.web.validation import invalid, unknown_names

NAMES = ("run", "uuid", "status")
_SEQ = re.compile(r"0|[1-9][0-9]{0,12}")
_STATUSES = ", ".join(Status)


@dataclass(frozen=True, slots=True)
class Filters:
    """The events that a subscriber wants. Subscribers with equal filters get the same events.

    Attributes:
        run: Only this run; None: all.
        uuid: Only this message, and the progress of its run; None: all. `run` is set as well.
        statuses: Only messages that come to one of these; empty: all.
        owner: Only what belongs to this API key; None: all, and the statistics of all runs.
    """

    run: str | None = None
    uuid: str | None = None
    statuses: frozenset[Status] = frozenset()
    owner: str | None = None

    def let_through(self, step: Step) -> bool:
        """Whether the subscriber wants the event of this step."""
        return (
            (not self.statuses or step.status in self.statuses)
            and (self.run is None or step.run == self.run)
            and (self.uuid is None or step.uuid == self.uuid)
        )


def filters_of(query: QueryParams) -> Filters:
    """The filters in a query: `run`, `uuid`, `status` (several, separated by commas); blank means unset.

    Raises Problem 422, with an error for each bad value.
    """
    reader = _Reader(query)
    run = reader.run()
    uuid = reader.uuid(run)
    statuses = reader.statuses()
    if reader.errors:
        raise invalid(reader.errors)
    if uuid is not None:
        run = uuid.rpartition(".")[0]
    return Filters(run, uuid, statuses)


class _Reader:
    """Reads the filters of a query.

    Attributes:
        errors: The errors in it.
    """

    def __init__(self, query: QueryParams) -> None:
        self._query = query
        self.errors = unknown_names(query, NAMES, "query")

    def run(self) -> str | None:
        """The run."""
        run = self._once("run")
        if run is not None and not is_run_id(run):
            self._refuse("run", "no run's name: use a-z, 0-9 and -, up to 40")
        return run

    def uuid(self, run: str | None) -> str | None:
        """The message id, which must belong to the run."""
        uuid = self._once("uuid")
        if uuid is None:
            return None
        of_run, _, seq = uuid.rpartition(".")
        if not is_run_id(of_run) or not _SEQ.fullmatch(seq) or int(seq) >= MAX_SEQ:
            self._refuse("uuid", "no message id: it is <run>.<number>")
        elif run not in (None, of_run):
            self._refuse("uuid", "a message of another run: leave one of the two filters out")
        return uuid

    def statuses(self) -> frozenset[Status]:
        """The statuses; all of them are the same as none."""
        values = self._query.getlist("status")
        wanted = {word.strip() for value in values for word in value.split(",")} - {""}
        if wanted - set(Status):
            self._refuse("status", f"not a status: use {_STATUSES}, separated by commas")
            return frozenset()
        statuses = frozenset(Status(word) for word in wanted)
        return frozenset() if len(statuses) == len(Status) else statuses

    def _once(self, name: str) -> str | None:
        values = [value for value in self._query.getlist(name) if value]
        if len(values) > 1:
            self._refuse(name, "given more than once: give one value")
        return values[0] if values else None

    def _refuse(self, name: str, what: str) -> None:
        self.errors.append(FieldError(f"query.{name}", what))

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
    """

    run: str | None = None
    uuid: str | None = None
    statuses: frozenset[Status] = frozenset()

    def let_through(self, step: Step) -> bool:
        """Whether the subscriber wants the event of this step."""
        return (
            (not self.statuses or step.status in self.statuses)
            and (self.run is None or step.run == self.run)
            and (self.uuid is None or step.uuid == self.uuid)
        )


def filters_of(query: QueryParams) -> Filters:
    """The filters in a query: `run`, `uuid`, `status` (several, separated by commas); blank means unset.

    Raises Problem: 422, with a what for each bad value.
    """
    errors = unknown_names(query, NAMES, "query")
    run = _once(query, "run", errors)
    if run is not None and not is_run_id(run):
        errors.append(FieldError("query.run", "no run's name: use a-z, 0-9 and -, up to 40"))
    uuid = _once(query, "uuid", errors)
    if uuid is not None:
        of_run, _, seq = uuid.rpartition(".")
        if not is_run_id(of_run) or not _SEQ.fullmatch(seq) or int(seq) >= MAX_SEQ:
            errors.append(FieldError("query.uuid", "no message id: it is <run>.<number>"))
        elif run not in (None, of_run):
            errors.append(
                FieldError("query.uuid", "a message of another run: leave one of the two filters out")
            )
        run = of_run
    wanted = {word.strip() for value in query.getlist("status") for word in value.split(",")} - {""}
    if wanted - set(Status):
        errors.append(FieldError("query.status", f"not a status: use {_STATUSES}, separated by commas"))
    if errors:
        raise invalid(errors)
    statuses = frozenset(Status(word) for word in wanted)
    return Filters(run, uuid, frozenset() if len(statuses) == len(Status) else statuses)


def _once(query: QueryParams, name: str, errors: list[FieldError]) -> str | None:
    values = [value for value in query.getlist(name) if value]
    if len(values) > 1:
        errors.append(FieldError(f"query.{name}", "given more than once: give one value"))
    return values[0] if values else None

"""A profile: the usual conditions of a provider, and windows of a run's age in which they differ."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from common.messages import Seqs
from common.settings import Distribution
from sender.providers.profiles.conditions import Conditions, Plays, Seconds, Share, Wait

Age = Annotated[float, Meta(ge=0, le=1e9)]  # seconds since the run began


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A period of a run's age with other conditions. Fields that are set replace those of the profile.

    Attributes:
        from_s: Start of the period, in seconds since the run began.
        to_s: End of the period; it is not part of it.
        every_s: The period repeats at this interval; it occurs once unless given.
    """

    from_s: Age
    to_s: Age
    every_s: Age | None = None
    mean_s: Seconds | UnsetType = UNSET
    stddev_s: Seconds | UnsetType = UNSET
    distribution: Distribution | UnsetType = UNSET
    failed: Share | UnsetType = UNSET
    retry: Share | UnsetType = UNSET
    throttled: Share | UnsetType = UNSET
    retry_after_s: Wait | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.to_s <= self.from_s:
            raise ValueError("to_s must be later than from_s")
        if self.every_s is not None and self.every_s < self.to_s:
            raise ValueError("every_s must not be less than to_s")

    def contains(self, age_s: float) -> bool:
        """Whether a run of this age is in the window."""
        if self.every_s is not None:
            age_s %= self.every_s
        return self.from_s <= age_s < self.to_s

    def applied_to(self, usual: Conditions) -> Conditions:
        """The conditions in the window. Raises ValueError if its shares and the usual ones are more than 1."""
        fields = {}
        for name in Conditions.__struct_fields__:
            value = getattr(self, name)
            fields[name] = getattr(usual, name) if value is UNSET else value
        return Conditions(**fields)


class Profile(Conditions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a provider behaves.

    Attributes:
        description: A line for people.
        windows: The windows; where they overlap, the first counts.
    """

    description: str = ""
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for place, window in enumerate(self.windows):
            try:
                window.applied_to(self)
            except ValueError as error:
                raise ValueError(f"{error} - at `$.windows[{place}]`") from None

    @property
    def shortest_mean_s(self) -> float:
        """The smallest mean time of a send in any of its conditions, in seconds."""
        means_s = [window.applied_to(self).mean_s for window in self.windows]
        return min([self.mean_s, *means_s])

    def at(self, age_s: float) -> Conditions:
        """The conditions for a run of this age."""
        for window in self.windows:
            if window.contains(age_s):
                return window.applied_to(self)
        return self

    def play(self, seed: int, seqs: Seqs, attempt: int, age_s: float) -> Plays:
        """The results of an attempt at these messages that begins at this age of their run.

        Pure: the result of a message does not depend on the other messages.
        """
        return self.at(age_s).draw(seed, seqs, attempt)

"""Profiles: how a provider behaves, as data (docs/providers.md). The YAML files beside this one are built in."""

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from common.errors import UsageError
from common.messages import Outcome, Seqs
from common.settings import Distribution, Settings
from sender.providers.draws import OUTCOME_STREAM, failures, processing_times_us, uniforms

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Wait = Annotated[float, Meta(ge=0, le=512)]  # the longest retry queue there is, in seconds
Age = Annotated[float, Meta(ge=0, le=1e9)]  # seconds since the run began

# "Too many" is said at the door, so it comes so many times sooner than another answer.
QUICK = 10


@dataclass(frozen=True, eq=False, slots=True)
class Plays:
    """What a provider made of some sends. Arrays of one length, in the order of the seqs.

    `times_us` is how long each took, in microseconds; `outcomes` holds `Outcome` values; `retry_after_s`, the
    shortest wait before another attempt (0 where none is asked for), is None where the provider refuses nobody.
    """

    times_us: NDArray[np.int64]
    outcomes: NDArray[np.uint8]
    retry_after_s: NDArray[np.float32] | None


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a provider behaves at one time. Times in seconds; shares are of all sends, the rest is sent.

    `retry` fails for now, `throttled` is refused as too many until `retry_after_s` is over, `failed` fails for good.
    """

    mean_s: Seconds
    stddev_s: Seconds | None = None
    distribution: Distribution = Distribution.NORMAL
    failed: Share = 0.0
    retry: Share = 0.0
    throttled: Share = 0.0
    retry_after_s: Wait = 1.0

    def __post_init__(self) -> None:
        if self._all_shares > 1:
            raise ValueError("failed, retry and throttled together are more than 1")

    @property
    def _all_shares(self) -> float:
        # A plain sum makes 0.33 + 0.56 + 0.11 a little more than 1.
        return math.fsum((self.retry, self.throttled, self.failed))

    def draw(self, seed: int, seqs: Seqs, attempt: int) -> Plays:
        """What comes of an attempt at these messages: always the same for the same (seed, seq, attempt)."""
        stddev_s = self.mean_s / 10 if self.stddev_s is None else self.stddev_s
        times_us = processing_times_us(seed, seqs, attempt, self.distribution, self.mean_s, stddev_s)
        if not (self.throttled or self.failed):
            fails = failures(seed, seqs, attempt, self.retry)
            return Plays(times_us, np.where(fails, np.uint8(Outcome.RETRY), np.uint8(Outcome.SENT)), None)
        u = uniforms(seed, seqs, attempt, OUTCOME_STREAM)
        again = self.retry + self.throttled
        outcomes = np.where(u < self._all_shares, np.uint8(Outcome.FAILED), np.uint8(Outcome.SENT))
        outcomes[u < again] = Outcome.RETRY
        if not self.throttled:
            return Plays(times_us, outcomes, None)
        refused = (u >= self.retry) & (u < again)
        times_us = np.where(refused, times_us // QUICK, times_us)
        return Plays(times_us, outcomes, np.where(refused, np.float32(self.retry_after_s), np.float32(0)))


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time of other conditions: from `from_s` until before `to_s` of a run's age, again every `every_s` if given.

    The other fields take the place of the profile's.
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

    def holds(self, age_s: float) -> bool:
        """Whether a run of this age is in it."""
        return self.from_s <= (age_s if self.every_s is None else age_s % self.every_s) < self.to_s

    def over(self, usual: Conditions) -> Conditions:
        """The conditions while it holds. Raises ValueError if its shares and the usual ones don't go together."""
        fields = {name: getattr(usual, name) for name in Conditions.__struct_fields__}
        own = {name: getattr(self, name) for name in fields if getattr(self, name) is not UNSET}
        return Conditions(**(fields | own))


class Profile(Conditions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a provider behaves: usually, and in windows of a run's age, of which the first that holds counts."""

    description: str = ""
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for place, window in enumerate(self.windows):
            try:
                window.over(self)
            except ValueError as error:
                raise ValueError(f"{error} - at `$.windows[{place}]`") from None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Profile":
        """PROVIDER_PROFILE, or else what MEAN_PROCESSING_TIME to FAILURE_RATE say. Raises UsageError."""
        if settings.provider_profile is not None:
            return load_profile(settings.provider_profile)
        return cls(
            mean_s=settings.mean_processing_time,
            stddev_s=settings.stddev_s,
            distribution=settings.processing_time_distribution,
            retry=settings.failure_rate,
        )

    @property
    def shortest_mean_s(self) -> float:
        """The smallest mean processing time that it ever has, in seconds."""
        return min(conditions.mean_s for conditions in (self, *(w.over(self) for w in self.windows)))

    def at(self, age_s: float) -> Conditions:
        """The conditions when a run is so many seconds old."""
        for window in self.windows:
            if window.holds(age_s):
                return window.over(self)
        return self

    def play(self, seed: int, seqs: Seqs, attempt: int, age_s: float) -> Plays:
        """What comes of an attempt at these messages that begins when their run is `age_s` old.

        Pure, and message by message: the same however seqs are grouped, and whoever asks.
        """
        return self.at(age_s).draw(seed, seqs, attempt)


def builtin_profiles() -> list[str]:
    """The names of the profiles that come with the sender."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_profile(name_or_path: str) -> Profile:
    """A built-in profile by its name, or one from a YAML file. Raises UsageError, in one line."""
    try:
        return msgspec.yaml.decode(_read(name_or_path), type=Profile, strict=False)
    except (msgspec.MsgspecError, OSError, ValueError, RecursionError) as error:
        raise UsageError(_one_line(f"PROVIDER_PROFILE={name_or_path}: {_reason(error)}")) from None


def refuse_beside_profile(settings: Settings, flags: dict[str, float | None]) -> None:
    """A flag that the profile in force would silently overrule is a mistake. Raises UsageError."""
    for name, value in flags.items():
        if value is not None and settings.provider_profile is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with a profile"
                f" (PROVIDER_PROFILE={settings.provider_profile}): change the profile, or use none"
            )


def _read(name_or_path: str) -> bytes:
    if name_or_path in builtin_profiles():
        return (resources.files(__name__) / f"{name_or_path}.yaml").read_bytes()
    return Path(name_or_path).read_bytes()


def _reason(error: Exception) -> str:
    """What is wrong, and where."""
    if isinstance(error, FileNotFoundError):
        return f"neither a built-in profile ({', '.join(builtin_profiles())}) nor a file"
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, msgspec.ValidationError):
        # msgspec says "Expected `float` >= 0.0 - at `$.windows[0].mean_s`", and nothing of where at the top level.
        what, _, where = str(error).partition(" - at ")
        place = where.replace("`", "").removeprefix("$").removeprefix(".") or "the top level"
        return f"{what[:1].lower()}{what[1:]} at {place}"
    return f"not YAML: {error}".replace('in "<byte string>", ', "at ")


def _one_line(text: str) -> str:
    """YAML's errors take several lines, and a name in a file may hold any character."""
    line = " ".join(text.split())
    return line if line.isprintable() else line.encode("unicode_escape").decode()

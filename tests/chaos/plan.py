"""The plan of one run, drawn from a seed: the load, the settings, and when the faults strike."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

BATCH_SIZES = (1, 20, 100)
WAVES = 8
# A small load has one wave and one strike for each of this many messages.
SMALL = 1_000

# Provider profiles (docs/providers.md). Sends are short, so that senders are busy; every kind of answer occurs.
STEADY = {"mean_s": 0.02, "failed": 0.01, "retry": 0.03, "throttled": 0.01, "retry_after_s": 0.25}
FLAKY = {"mean_s": 0.02, "failed": 0.01, "retry": 0.25, "throttled": 0.05, "retry_after_s": 0.25}
OUTAGES = {**STEADY, "windows": [{"from_s": 2, "to_s": 4, "every_s": 8, "retry": 0.96, "throttled": 0.03}]}


@dataclass(frozen=True)
class Wishes:
    """What a fault needs of the plan. The seed decides the rest.

    Attributes:
        strikes: How many times the fault strikes.
        between: The range of the settled share during which it strikes.
        hold_s: The range of its duration.
        ahead: The share of all messages that producers keep in the queue.
        lasts_s: The least duration of the whole run, which the provider's send time is derived from.
        max_attempts: MAX_ATTEMPTS, if the fault needs a value.
        profile: The provider's profile, if the fault needs one.
        settings: Further settings of all processes.
    """

    strikes: int = 3
    between: tuple[float, float] = (0.08, 0.75)
    hold_s: tuple[float, float] = (0.5, 3.0)
    ahead: float = 0.1
    lasts_s: float = 0.0
    max_attempts: int | None = None
    profile: dict[str, Any] | None = None
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Wave:
    """The messages of one run, published by one producer."""

    run: str
    messages: int
    urgent: bool
    seed: int


@dataclass(frozen=True)
class Strike:
    """When a fault begins, as the share of settled messages, and how long it lasts in seconds."""

    at_share: float
    hold_s: float


@dataclass(frozen=True)
class Plan:
    """One run of the suite. A wave begins once at most `ahead` messages wait in the queue."""

    seed: int
    messages: int
    batch_size: int
    senders: int
    slots: int
    max_attempts: int
    keep_failed: bool
    ahead: int
    profile: dict[str, Any]
    settings: dict[str, object]
    waves: tuple[Wave, ...]
    strikes: tuple[Strike, ...]

    @property
    def deadline_s(self) -> float:
        """When the run is aborted, in seconds: at a hundredth of the usual rate, something hangs."""
        return 300 + self.messages / 300


def make_plan(fault: str, seed: int, messages: int, wishes: Wishes) -> Plan:
    """The plan of a fault's run with this seed. The same arguments give the same plan."""
    random = Random(f"{fault} {seed}")
    max_attempts = wishes.max_attempts or random.choice((1, 3))
    first, last = wishes.between
    strikes = min(wishes.strikes, max(1, messages // SMALL))
    step = (last - first) / strikes
    senders, slots = random.choice((2, 3)), random.choice((100, 200, 400))
    profile = dict(wishes.profile or STEADY)
    profile["mean_s"] = max(profile["mean_s"], wishes.lasts_s * senders * slots / messages)
    return Plan(
        seed=seed,
        messages=messages,
        batch_size=BATCH_SIZES[seed % len(BATCH_SIZES)],  # three consecutive seeds cover them all
        senders=senders,
        slots=slots,
        max_attempts=max_attempts,
        keep_failed=random.random() < 0.5,
        ahead=round(wishes.ahead * messages),
        profile=profile,
        settings=wishes.settings,
        waves=_waves(random, messages),
        strikes=tuple(
            Strike(first + step * (k + random.uniform(0, 0.8)), random.uniform(*wishes.hold_s))
            for k in range(strikes)
        ),
    )


def _waves(random: Random, messages: int) -> tuple[Wave, ...]:
    """Waves of different sizes. Every fourth is urgent and small, since a tenth of the slots is for urgent messages."""
    waves = min(WAVES, max(3, messages // SMALL))
    weights = [random.uniform(0.5, 1.5) * (0.2 if k % 4 == 2 else 1) for k in range(waves)]
    sizes = [max(1, int(messages * weight / sum(weights))) for weight in weights]
    sizes[0] += messages - sum(sizes)
    return tuple(
        Wave(f"wave-{k}", size, urgent=k % 4 == 2, seed=random.randrange(2**31))
        for k, size in enumerate(sizes)
    )

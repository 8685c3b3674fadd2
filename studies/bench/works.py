"""Which works `make bench` measures, and with how many messages."""

from functools import partial

from studies.bench.figures import EMBEDDED, OURS, Work
from studies.bench.measure import Opened, both_at_once, publish_then_consume
from studies.bench.ours import Ours, simulate
from studies.bench.rounds import Scenario

# Messages by batch size, so that each measurement takes some seconds on two cores.
MESSAGES = {1: 60_000, 100: 1_000_000, 512: 1_500_000}
STEADY = Work("both at once at 1 s, ramp left out", 512, 8_000_000)
# More slots than two cores can keep busy; at any scale the messages are eight waves of them.
STEADY_SLOTS = STEADY.messages // 8
EMBEDDED_SENDERS = (50_000, 400_000, 1_000_000)


def scaled(messages: int, scale: float) -> int:
    """How many messages a measurement has: at least 1,000."""
    return max(1_000, round(messages * scale))


def of_ours(ours: Ours, batch_size: int, scale: float) -> list[Scenario]:
    """Our works in batches of one size."""
    return both_works(OURS, partial(ours.opened, batch_size, scaled(MESSAGES[batch_size], scale)))


def both_works(who: str, opened: Opened) -> list[Scenario]:
    """The works that everybody is measured at."""
    return [
        Scenario(who, partial(publish_then_consume, opened)),
        Scenario(who, partial(both_at_once, opened)),
    ]


def steady(ours: Ours, scale: float) -> Scenario:
    """Both at once at a send time of 1 s."""
    work = Work(STEADY.name, STEADY.batch_size, scaled(STEADY.messages, scale))
    return Scenario(OURS, partial(ours.steady, work, slots=scaled(STEADY_SLOTS, scale), mean_s=1.0))


def embedded(scale: float) -> list[Scenario]:
    """Embedded runs: one without a send time, the others at 1 s."""
    fast = Work("embedded, no send time", None, scaled(2_000_000, scale))
    made = [Scenario(EMBEDDED, partial(simulate, fast, senders=50_000, mean_s=0.0))]
    for senders in EMBEDDED_SENDERS:
        paced = Work(f"embedded, {senders:,} senders at 1 s", None, scaled(10 * senders, scale))
        made.append(Scenario(EMBEDDED, partial(simulate, paced, senders=senders, mean_s=1.0)))
    return made

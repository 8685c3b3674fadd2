"""How long acceptance and its relays wait, and how much they have at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AcceptanceLimits:
    """The limits of acceptance.

    Attributes:
        group: The most messages that are accepted in one call.
        waiting: The most messages that wait to be accepted; beyond that, 429.
        answer_s: How long the store may take to answer; after that, 503.
        run_answer_s: The same for a run that is accepted whole.
        rotate_messages: How many messages a run takes before another begins.
        rotate_s: How long a run takes messages before another begins.
        idle_s: A run into which no message came for this long is closed.
        look_s: How often idle runs are looked for.
    """

    group: int = 500
    waiting: int = 20_000
    answer_s: float = 3.0
    run_answer_s: float = 20.0
    rotate_messages: int = 10_000_000
    rotate_s: float = 86_400.0
    idle_s: float = 1_800.0
    look_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class RelayLimits:
    """The limits of the relays.

    Attributes:
        runs: The most runs that a gateway relays; beyond that, a batch is answered 503, and no run is taken over.
        batch: The most messages in one AMQP message.
        window: The most AMQP messages of a run that wait for their confirm.
        buffered: The most messages that are kept in memory until they are published; the others are read from the
            outbox.
        page: How many messages are read from the outbox in one call.
        confirm_s: The interval between two confirms to the store while there is progress.
        confirm_messages: The most messages in one confirm.
        heartbeat_s: How often a lease is renewed.
        pause_s: The pause after a publish, or a call of the store, that failed; the next pauses double.
        longest_pause_s: The longest of these pauses.
        look_s: How often runs are looked for whose lease has ended.
        settled_s: How long the store must have answered promptly before a run is taken over: after an outage the
            leases of gateways that live have ended as well, until they renew them.
        prompt_s: An answer that takes longer counts as an outage.
        finish_s: How long the relays may take when the gateway stops; another gateway relays the rest.
        memory_high: The share of the store's memory in use from which a warning is logged.
        memory_well: The share below which the next warning may come.
        memory_for_runs: The share from which no batch is accepted, and no simulated run is begun: each takes some
            kilobytes of the ledger for days. The rest is for single messages.
    """

    runs: int = 2_000
    batch: int = 500
    window: int = 64
    buffered: int = 50_000
    page: int = 2_000
    confirm_s: float = 0.25
    confirm_messages: int = 10_000
    heartbeat_s: float = 2.5
    pause_s: float = 0.2
    longest_pause_s: float = 5.0
    look_s: float = 1.0
    settled_s: float = 5.0
    prompt_s: float = 2.0
    finish_s: float = 2.0
    memory_high: float = 0.8
    memory_well: float = 0.7
    memory_for_runs: float = 0.92

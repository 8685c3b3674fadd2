"""simulation/: the whole pipeline in one process, and the `smsim` command."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.contacts.rows import Options
from common.contacts.source import ContactsSource
from common.ledger.values import Snapshot
from common.messages import Lane, Message
from common.publishing.random import RandomSource
from common.publishing.recipes import Source
from common.settings import Distribution, load_settings
from sender.providers.draws import Draws
from simulation import cli
from simulation.pipeline import LIMITS, Simulation, fitting_batch_size, simulate
from tests.providers import failures

pytestmark = pytest.mark.usefixtures("bare_environment", "process_as_before")

COUNT, SENDERS, SEED, RATE = 2_000, 100, 42, 0.2
SEQS = np.arange(COUNT, dtype=np.int64)


async def simulated(
    source: Source | None = None, stop: asyncio.Event | None = None, **settings: Any
) -> Snapshot:
    """The end of a run of 2,000 messages through 100 senders at 10 ms, or of another source and settings."""
    chosen = {"mean_processing_time": 0.01, "failure_rate": RATE, "seed": SEED, **settings}
    batch_size = fitting_batch_size(SENDERS)
    simulation = Simulation(
        "a-run", source or RandomSource(COUNT, 1), SENDERS, batch_size, Lane.BULK, load_settings(**chosen)
    )
    async with asyncio.timeout(60):
        return await simulate(simulation, stop or asyncio.Event(), live=False)


def times_us(attempt: int) -> NDArray[np.int64]:
    return Draws(SEED, SEQS, attempt).times_us(Distribution.NORMAL, 0.01, 0.001)


async def test_every_message_is_accounted_for() -> None:
    """Sent + failed = published, exactly, and nothing is open."""
    end = await simulated()
    assert end.published == COUNT
    assert end.sent + end.failed == COUNT
    assert (end.queued, end.sending, end.retried, end.ambiguous, end.rejected) == (0, 0, 0, 0, 0)
    assert sum(end.latency.values()) == COUNT


async def test_the_totals_are_those_of_the_draws() -> None:
    """With a seed the outcome and time of each message are known, and so are the totals."""
    end = await simulated()
    assert end.failed == np.count_nonzero(failures(SEED, SEQS, 1, RATE))
    assert end.total_time_us == times_us(1).sum()


async def test_the_same_seed_gives_the_same_run() -> None:
    """Sent, failed, times and histogram repeat; another seed gives others."""
    first, again, other = [await simulated(seed=seed) for seed in (SEED, SEED, SEED + 1)]

    def result(end: Snapshot) -> tuple[int, int, int, dict[int, int]]:
        return end.sent, end.failed, end.total_time_us, end.latency

    assert result(first) == result(again)
    assert result(first) != result(other)


async def test_retries_end_exactly() -> None:
    """Messages that fail three times are failed, each retry is counted, and times are those of the last attempt."""
    end = await simulated(max_attempts=3, retry_backoff=0.01)
    fails = [failures(SEED, SEQS, attempt, RATE) for attempt in (1, 2, 3)]
    once, twice = fails[0], fails[0] & fails[1]
    assert end.published == COUNT
    assert end.failed == np.count_nonzero(twice & fails[2])
    assert end.sent == COUNT - end.failed
    assert end.retried == np.count_nonzero(once) + np.count_nonzero(twice)
    assert (end.queued, end.sending, end.ambiguous) == (0, 0, 0)
    last_us = np.where(twice, times_us(3), np.where(once, times_us(2), times_us(1)))
    assert end.total_time_us == last_us.sum()


async def test_no_time_and_no_failures() -> None:
    """The fastest case: all messages are sent."""
    end = await simulated(mean_processing_time=0.0, failure_rate=0.0)
    assert (end.sent, end.failed, end.total_time_us) == (COUNT, 0, 0)


class StoppingSource(RandomSource):
    """Sets an event when it is asked for message 5,000 of 20,000: more than the producer runs ahead."""

    def __init__(self, stop: asyncio.Event) -> None:
        super().__init__(20_000, 1)
        self._stop = stop

    def messages(self, first: int) -> Iterator[Message]:
        for message in super().messages(first):
            if message.seq == 5_000:
                self._stop.set()
            yield message


async def test_a_run_that_is_stopped_ends_in_good_order() -> None:
    """Sends in flight are completed, the rest stays queued, and the identity holds."""
    stop = asyncio.Event()
    end = await simulated(StoppingSource(stop), stop)
    assert end.published == end.queued + end.sending + end.sent + end.failed
    assert end.sending == 0
    assert 2_000 < end.settled < 6_000
    assert end.queued == end.published - end.settled > 0
    assert sum(end.latency.values()) == end.settled


async def test_invalid_numbers_fail_without_a_send() -> None:
    """An invalid number that a source lets through is failed, and the others in its batch are sent."""

    class WithBadNumbers(RandomSource):
        def messages(self, first: int) -> Iterator[Message]:
            for m in super().messages(first):
                yield Message(m.seq, "12", m.text) if m.seq % 10 == 0 else m

    end = await simulated(WithBadNumbers(COUNT, 1), failure_rate=0.0)
    assert (end.sent, end.failed) == (COUNT - COUNT // 10, COUNT // 10)


async def test_contacts_go_the_same_way(bare_environment: Path) -> None:
    """A CSV file is a source like any other."""
    path = bare_environment / "contacts.csv"
    path.write_text("number\n" + "".join(f"+35840{k:07}\n" for k in range(300)) + "bad\n")
    source = ContactsSource.open(path, Options(text="Hi"))
    end = await simulated(source, failure_rate=0.0)
    assert (end.published, end.sent, source.findings.skipped) == (300, 300, 1)


@pytest.mark.parametrize(
    ("senders", "batch_size"),
    [(1, 1), (64, 1), (65, 2), (100, 2), (6_400, 100), (10_000_000, LIMITS.largest_batch)],
)
def test_batches_fit_the_number_of_senders(senders: int, batch_size: int) -> None:
    """64 batches or more fill the slots, none larger than 512."""
    assert fitting_batch_size(senders) == batch_size


Ran = tuple[int, str, str]
Smsim = Callable[..., Ran]


@pytest.fixture
def smsim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Smsim:
    """Runs `smsim` with arguments; returns its exit code, stdout and stderr."""

    def run(*args: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["smsim", *args])
        try:
            code = cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


def test_simulate_prints_one_json_object(smsim: Smsim) -> None:
    """--json: the run and the monitor's fields are the only output on stdout."""
    code, out, err = smsim(
        *("simulate", "--num-messages", "500", "--senders", "50", "--mean-processing-time", "0.01"),
        *("--failure-rate", "0", "--run", "a-run", "--json"),
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["run"], result["published"], result["sent"], result["failed"]) == ("a-run", 500, 500, 0)
    assert result["senders"] == 50
    assert {
        "queued",
        "sending",
        "p50_s",
        "p95_s",
        "p99_s",
        "rate_per_s",
        "elapsed_s",
        "eta_s",
    } <= result.keys()


def test_simulate_takes_numbers_that_belong_to_nobody(
    smsim: Smsim, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is sent. RESERVED_NUMBERS=false refuses them here as well."""
    contacts = tmp_path / "contacts.csv"
    contacts.write_text("number\n+447700900123\n+999768835601\n")
    command = (
        "simulate",
        "--contacts",
        str(contacts),
        "--text",
        "Hi",
        "--mean-processing-time",
        "0",
        "--json",
    )
    code, out, _ = smsim(*command)
    assert (code, json.loads(out)["published"]) == (0, 2)
    monkeypatch.setenv("RESERVED_NUMBERS", "false")
    code, _, err = smsim(*command)
    assert code == 2
    assert "reserved for fiction" in err


def test_simulate_ends_with_a_summary(smsim: Smsim) -> None:
    """For people: the number of messages, the rate, and that none was lost."""
    code, out, _ = smsim("simulate", "--num-messages", "500", "--mean-processing-time", "0", "--urgent")
    assert code == 0
    assert "500 messages through 1,100 senders" in out, "1,000 and the tenth for urgent ones"
    assert "every message accounted for" in out


SIMULATE = ("simulate", "--num-messages", "10")


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (("simulate",), "one of the arguments --num-messages --contacts is required"),
        (("simulate", "--num-messages", "-1"), "'-1' is not a whole number of at least 1"),
        (("simulate", "--num-messages", "abc"), "'abc' is not a whole number"),
        (("simulate", "--num-messages", "0"), "'0' is not a whole number"),
        (("simulate", "--num-messages", "5", "--contacts", "x.csv"), "not allowed with argument --num-messages"),
        ((*SIMULATE, "--senders", "0"), "'0' is not a whole number from 1"),
        ((*SIMULATE, "--batch-size", "10001"), "'10001' is not a whole number from 1 to 10000"),
        ((*SIMULATE, "--failure-rate", "1.5"), "'1.5' is not a number from 0 to 1"),
        ((*SIMULATE, "--mean-processing-time", "nan"), "'nan' is not a number"),
        ((*SIMULATE, "--max-attempts", "0"), "'0' is not a whole number from 1"),
        ((*SIMULATE, "--seed", "x"), "'x' is not a whole number"),
        ((*SIMULATE, "--run", "A Run"), "'A Run' is no name for a run"),
        ((*SIMULATE, "--text", "Hi"), "--text goes with --contacts"),
        ((*SIMULATE, "--strict"), "--strict goes with --contacts"),
        ((*SIMULATE, "--resume", "a-run"), "unrecognized arguments: --resume a-run"),
        (("simulate", "--contacts", "missing.csv"), "missing.csv: can't be read: No such file or directory"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(args: tuple[str, ...], wrong: str, smsim: Smsim) -> None:
    """On stderr, under the command's own name, with nothing on stdout."""
    code, out, err = smsim(*args)
    assert (code, out) == (2, "")
    assert err.startswith("smsim simulate: ")
    assert wrong in err
    assert err.count("\n") == 1


def test_a_bad_setting_is_one_line_and_exit_code_2(smsim: Smsim, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the environment are those of the flags."""
    monkeypatch.setenv("FAILURE_RATE", "1.5")
    code, out, err = smsim(*SIMULATE)
    assert (code, out) == (2, "")
    assert err.startswith("smsim simulate: FAILURE_RATE=1.5: ")
    assert err.count("\n") == 1


def test_bad_rows_are_reported_and_skipped(smsim: Smsim, bare_environment: Path) -> None:
    """Each with its line on stderr; the others are sent."""
    (bare_environment / "c.csv").write_text("number\n+358401234567\n12\n")
    code, out, err = smsim(
        "simulate", "--contacts", "c.csv", "--text", "Hi", "--mean-processing-time", "0", "--json"
    )
    said = json.loads(out)
    assert (code, said["published"], said["skipped"]) == (0, 1, 1)
    assert err.startswith("c.csv: line 3: number: not in international form")


def test_strict_stops_before_anything_is_published(smsim: Smsim, bare_environment: Path) -> None:
    """--strict: the same report, then exit code 2."""
    (bare_environment / "c.csv").write_text("number\n+358401234567\n12\n")
    code, out, err = smsim("simulate", "--contacts", "c.csv", "--text", "Hi", "--strict")
    assert (code, out) == (2, "")
    assert "c.csv: line 3: " in err
    assert err.splitlines()[-1] == "smsim simulate: c.csv: 1 bad row and --strict: nothing was published"


@pytest.mark.parametrize("args", [(), ("nonsense",)])
def test_no_such_command(args: tuple[str, ...], smsim: Smsim) -> None:
    """Exit code 2, and the list of commands on stderr."""
    code, out, err = smsim(*args)
    assert (code, out) == (2, "")
    assert all(command in err for command in ("simulate", "produce", "send", "monitor"))


def test_help_is_no_error(smsim: Smsim) -> None:
    """Exit code 0, on stdout."""
    code, out, err = smsim("--help")
    assert (code, err) == (0, "")
    assert "simulate" in out

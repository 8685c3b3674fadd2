"""simulation/mock_provider.py: `smsim provider` plays its profile, and counts and records what it accepted."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from common.messages import MAX_SEQ, MAX_TEXT_CHARS, Outcome
from common.settings import Distribution
from sender.providers.profiles import Profile, Window
from simulation.accepted import AcceptedMessages, Record
from simulation.fates import Fates
from simulation.mock_provider import MockProvider
from simulation.provider import main, serving
from tests.e2e.processes import Launched, Launcher
from tests.waiting import eventually

NUMBER = "+358401234567"
TEXT = "Water is rising"
AT_ONCE = Profile(mean_s=0)


class Sleeps:
    """Replaces the sleeps of the mock: notes the duration of each, and ends all when the test sets `over`."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await self.over.wait()


class Client:
    """Talks to a mock as a sender would."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, message: str, attempt: int = 1) -> tuple[int, dict[str, Any], Any]:
        """Status, answer and headers for the message of this id."""
        body = {"id": message, "to": NUMBER, "text": TEXT, "attempt": attempt}
        async with self._session.post("/sms", json=body) as answer:
            return answer.status, await answer.json(), answer.headers

    async def post(self, body: bytes) -> tuple[int, str]:
        json = {"Content-Type": "application/json"}
        async with self._session.post("/sms", data=body, headers=json) as answer:
            return answer.status, await answer.text()

    async def stats(self) -> dict[str, int]:
        async with self._session.get("/stats") as answer:
            stats: dict[str, int] = await answer.json()
            return stats

    async def reset(self) -> int:
        async with self._session.delete("/stats") as answer:
            return answer.status


@asynccontextmanager
async def client_of(
    profile: Profile = AT_ONCE,
    seed: int = 1,
    record: Path | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Client]:
    """A client of a mock that serves in this process."""
    async with (
        serving(
            MockProvider(Fates(profile, seed, clock), None if record is None else Record(record), sleep)
        ) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Client(session)


@pytest.mark.parametrize("attempt", [1, 2])
async def test_it_plays_its_profile(attempt: int) -> None:
    """Each message has the result that a simulated sender has with this profile and seed, across blocks of draws."""
    profile = Profile(mean_s=0, failed=0.2, retry=0.2, throttled=0.2, retry_after_s=2.5)
    seqs = np.arange(Fates.BLOCK - 60, Fates.BLOCK + 60)
    plays = profile.play(7, seqs, attempt, 0)
    assert plays.retry_after_s is not None
    wanted = [
        {Outcome.SENT: 200, Outcome.FAILED: 422, Outcome.RETRY: 429 if wait_s else 503}[Outcome(outcome)]
        for outcome, wait_s in zip(plays.outcomes, plays.retry_after_s, strict=True)
    ]
    async with client_of(profile, seed=7) as client:
        found = [(await client.send(f"r.{seq}", attempt))[0] for seq in seqs]
    assert found == wanted
    assert set(wanted) == {200, 422, 429, 503}


async def test_a_throttled_send_has_a_retry_after() -> None:
    """In whole seconds, as HTTP asks, and never too early."""
    async with client_of(Profile(mean_s=0, throttled=1, retry_after_s=2.5)) as client:
        status, _, headers = await client.send("r.0")
    assert (status, headers["Retry-After"]) == (429, "3")


async def test_other_refusals_have_no_retry_after() -> None:
    """After a temporary failure the sender decides when to try again."""
    async with client_of(Profile(mean_s=0, retry=1)) as client:
        status, _, headers = await client.send("r.0")
    assert status == 503
    assert "Retry-After" not in headers


async def test_answers_take_the_drawn_time() -> None:
    """Each message takes its drawn time, and is not answered before that is over."""
    profile = Profile(mean_s=0.4, distribution=Distribution.EXPONENTIAL)
    times_us = profile.play(1, np.arange(Fates.BLOCK), 1, 0).times_us
    chosen, sleeps = range(3, 8), Sleeps()
    async with client_of(profile, sleep=sleeps.sleep) as client:
        sending = [asyncio.create_task(client.send(f"r.{seq}")) for seq in chosen]
        await eventually(lambda: len(sleeps.asked_s) == len(chosen))
        assert sorted(sleeps.asked_s) == sorted((times_us[chosen] / 1e6).tolist())
        assert (await client.stats())["accepted"] == 0
        assert not any(task.done() for task in sending)
        sleeps.over.set()
        assert {status for status, _, _ in await asyncio.gather(*sending)} == {200}


async def test_the_age_of_a_run_counts_from_its_first_message() -> None:
    """The windows of a profile depend on the age of each run."""
    now_s = [1000.0]
    profile = Profile(mean_s=0, windows=(Window(from_s=10, to_s=20, failed=1),))
    async with client_of(profile, clock=lambda: now_s[0]) as client:
        found = []
        for at_s, message in (
            (0, "a.0"),
            (9, "a.1"),
            (11, "a.2"),
            (11, "b.0"),
            (19, "a.3"),
            (20, "a.4"),
            (22, "b.1"),
        ):
            now_s[0] = 1000.0 + at_s
            found.append((message, (await client.send(message))[0]))
    assert [message for message, status in found if status == 422] == ["a.2", "a.3", "b.1"]


async def test_a_repeated_message_is_marked() -> None:
    """It is accepted again, and the answer says so; other messages of its byte, piece or run are unaffected."""
    ids = ["r.0", "r.1", f"r.{AcceptedMessages.PIECE}", f"r.{MAX_SEQ - 1}", "q.0"]
    async with client_of() as client:
        first = [(await client.send(message))[1] for message in ids]
        again = [(await client.send(message, attempt=2))[1] for message in ids]
        stats = await client.stats()
    assert first == [{"id": message, "repeated": False} for message in ids]
    assert again == [{"id": message, "repeated": True} for message in ids]
    assert stats == {"requests": 10, "accepted": 10, "distinct": 5, "repeated": 5, "refused": 0}


async def test_only_what_was_accepted_can_be_repeated() -> None:
    """A message that was refused before is accepted for the first time later."""
    profile = Profile(mean_s=0, retry=0.5)
    outcomes = [profile.play(1, np.arange(100), attempt, 0).outcomes for attempt in (1, 2)]
    seq = int(np.flatnonzero((outcomes[0] == Outcome.RETRY) & (outcomes[1] == Outcome.SENT))[0])
    async with client_of(profile) as client:
        assert (await client.send(f"r.{seq}", 1))[0] == 503
        assert (await client.send(f"r.{seq}", 2))[1]["repeated"] is False


async def test_the_statistics_add_up_and_can_be_reset() -> None:
    """All requests are accepted or refused; a reset clears everything, the start of runs included."""
    now_s = [0.0]
    profile = Profile(mean_s=0, retry=0.5, windows=(Window(from_s=10, to_s=20, retry=0, failed=1),))
    async with client_of(profile, clock=lambda: now_s[0]) as client:
        statuses = [(await client.send(f"r.{seq}"))[0] for seq in range(40)]
        accepted = statuses.count(200)
        assert 0 < accepted < 40
        assert await client.stats() == {
            "requests": 40, "accepted": accepted, "distinct": accepted, "repeated": 0, "refused": 40 - accepted
        }  # fmt: skip
        now_s[0] = 15
        assert await client.reset() == 204
        assert not any((await client.stats()).values())
        assert [(await client.send(f"r.{seq}"))[0] for seq in range(40)] == statuses
        assert (await client.stats())["repeated"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 5_000,
        b'{"id": "r.0", "to": "+358401234567"}',
        b'{"id": "r", "to": "+358401234567", "text": "x"}',
        b'{"id": "r.-1", "to": "+358401234567", "text": "x"}',
        b'{"id": "r.01", "to": "+358401234567", "text": "x"}',
        b'{"id": "R.0", "to": "+358401234567", "text": "x"}',
        b'{"id": "r.%d", "to": "+358401234567", "text": "x"}' % MAX_SEQ,
        b'{"id": "r.0", "to": "0401234567", "text": "x"}',
        b'{"id": "r.0", "to": "+358401234567", "text": "%b"}' % (b"x" * (MAX_TEXT_CHARS + 1)),
        b'{"id": "r.0", "to": "+358401234567", "text": "x", "attempt": 0}',
    ],
)
async def test_an_invalid_body_is_answered_400(body: bytes) -> None:
    """The reason quotes neither number nor text; the message is refused, and not recorded."""
    async with client_of() as client:
        status, answer = await client.post(body)
        assert status == 400
        assert NUMBER not in answer
        assert await client.stats() == {
            "requests": 1, "accepted": 0, "distinct": 0, "repeated": 0, "refused": 1
        }  # fmt: skip


async def test_the_record_has_each_accepted_send_before_it_is_answered(tmp_path: Path) -> None:
    """One line for each accepted send, repeated ones included, none for a refused one; earlier lines stay."""
    record = tmp_path / "record"
    record.write_text("earlier.0 1\n")
    profile = Profile(mean_s=0, failed=0.5)
    lines = ["earlier.0 1"]
    async with client_of(profile, record=record) as client:
        for seq in (*range(20), *range(20)):
            status, _, _ = await client.send(f"r.{seq}", attempt=3)
            if status == 200:
                lines.append(f"r.{seq} 3")
            assert record.read_text().splitlines() == lines
    assert 1 < len(lines) < 41


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
async def test_what_cannot_be_recorded_is_not_accepted() -> None:
    """A message that can't be recorded is not accepted, so the record has all that was answered 200."""
    async with client_of(record=Path("/dev/full")) as client:
        assert (await client.send("r.0"))[0] == 500
        assert await client.stats() == {
            "requests": 1, "accepted": 0, "distinct": 0, "repeated": 0, "refused": 1
        }  # fmt: skip


async def test_the_message_of_a_client_that_disconnects_is_accepted(tmp_path: Path) -> None:
    """This makes a timeout ambiguous: the message is sent, and the client does not know it."""
    record, sleeps = tmp_path / "record", Sleeps()
    profile = Profile(mean_s=0.3, distribution=Distribution.CONSTANT)
    async with client_of(profile, record=record, sleep=sleeps.sleep) as client:
        sending = asyncio.create_task(client.send("r.0"))

        await eventually(lambda: sleeps.asked_s == [0.3])
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        sleeps.over.set()
        await eventually(lambda: record.read_text() == "r.0 1\n")
        assert (await client.stats())["accepted"] == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "application/json", "Host": "rebound.example"}, 421),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
async def test_foreign_pages_can_send_it_nothing(headers: dict[str, str], expected: int) -> None:
    """Neither as another type, which browsers send without asking, nor by a name that leads here."""
    async with (
        serving(MockProvider(Fates(AT_ONCE, 1))) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        body = b'{"id": "r.0", "to": "%b", "text": "hello"}' % NUMBER.encode()
        async with session.post("/sms", data=body, headers=headers) as answer:
            assert answer.status == expected
        async with session.get("/stats") as answer:
            assert (await answer.json())["requests"] == (expected == 200)


def test_messages_and_runs_are_remembered_up_to_a_bound() -> None:
    """Whatever names are sent: the oldest are forgotten."""
    messages = AcceptedMessages(most_pieces=2)
    assert [messages.add(run, 1) for run in ("a", "b", "a", "c", "a")] == [True, True, False, True, True]
    assert len(messages._pieces) == 2
    fates = Fates(AT_ONCE, 1, lambda: 0.0, runs_kept=2)
    for run in ("a", "b", "c"):
        fates.of(run, 0, 1)
    assert list(fates._began_s) == ["b", "c"]


async def test_it_has_a_health_check() -> None:
    """For health checks of a stack."""
    async with (
        serving(MockProvider(Fates(AT_ONCE, 1))) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/health") as answer,
    ):
        assert (answer.status, await answer.json()) == (200, {"healthy": True})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--profile", "nonsense"], 2, "PROVIDER_PROFILE=nonsense: neither"),
        (["--record", "/nowhere/record"], 2, "--record /nowhere/record: can't be opened: No such file"),
        (["--port", "65536"], 2, "'65536' is not a whole number from 0 to 65535"),
        # An address of nobody (RFC 5737), for which no name server is asked.
        (["--host", "192.0.2.1"], 1, "can't listen on 192.0.2.1:8025: "),
    ],
)
@pytest.mark.usefixtures("process_as_before", "bare_environment")
def test_bad_arguments_are_one_clear_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code of a usage error, or of a resource that is unavailable."""
    try:
        found = main(arguments)
    except SystemExit as error:
        found = int(error.code or 0)
    [line] = capsys.readouterr().err.splitlines()
    assert found == code
    assert line.startswith("smsim provider: ")
    assert said in line


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path, {})
    yield launcher
    launcher.close()


async def listening(mock: Launched) -> int:
    """The port of a mock that was launched."""
    await eventually(lambda: mock.logged("provider_listening"))
    return next(int(event["port"]) for event in mock.events if event["event"] == "provider_listening")


async def test_the_command_completes_requests_on_sigterm(launcher: Launcher) -> None:
    """SIGTERM: no new connection, the request in progress is completed and recorded, exit 0; no message in its log."""
    (launcher.folder / "slow.yaml").write_text("{mean_s: 1, distribution: constant}")
    mock = launcher.start("smsim", "provider", "--port", 0, "--profile", "slow.yaml", "--record", "record")
    port = await listening(mock)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        client = Client(session)
        sending = asyncio.create_task(client.send("r.0"))

        async def in_progress() -> bool:
            return (await client.stats())["requests"] == 1

        await eventually(in_progress)
        mock.signal(signal.SIGTERM)
        await eventually(lambda: mock.logged("provider_stopping"))
        status, _, _ = await sending
    assert status == 200
    assert await mock.ended() == 0
    assert (launcher.folder / "record").read_text() == "r.0 1\n"
    assert mock.stdout == ""
    assert NUMBER not in mock.stderr
    assert TEXT not in mock.stderr


async def test_a_port_in_use_is_one_clear_line(launcher: Launcher) -> None:
    """Exit 1. The mock that has the port is unaffected."""
    first = launcher.start("smsim", "provider", "--port", 0)
    port = await listening(first)
    second = launcher.start("smsim", "provider", "--port", port)
    assert await second.ended() == 1
    [line] = second.stderr.splitlines()
    assert line.startswith(f"smsim provider: can't listen on 127.0.0.1:{port}: ")
    assert first.runs

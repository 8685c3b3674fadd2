"""`smsim serve` as a process: what a developer's program finds there, and how it begins and ends."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from yarl import URL

from common.errors import UsageError
from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import Outcome
from sender.providers.magic import Magic, MagicBehaviour
from simulation.serve import DEFAULTS, Limits, forget_old_runs, stand_in_settings
from tests.e2e.processes import ROOT, Launched, Launcher, run_to_end
from tests.waiting import eventually

ANNA, BERT = "+358401234567", "+541166587382"
KEY = "a-key-that-is-long-enough"
READY = re.compile(r"^smsim serve: ready on (http://\S+)/ \(.*\)$", re.MULTILINE)


class StandIn:
    """A stand-in that runs, with a client of it."""

    def __init__(self, process: Launched, base: str, session: aiohttp.ClientSession) -> None:
        self.process, self.base, self.session = process, base, session

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON of an answer; the path goes out as it is typed."""
        url = URL(self.base + path, encoded=True)
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None) if await answer.read() else None

    async def send(self, number: str, text: str = "hello") -> str:
        """Sends a message; gives its uuid."""
        status, accepted = await self.ask("POST", "/sms", {"number": number, "text": text})
        assert status == 202, accepted
        return str(accepted["uuid"])

    async def settled(self, uuid: str) -> dict[str, Any]:
        """What is known of a message, once it is sent or failed."""

        async def is_settled() -> Any:
            _, message = await self.ask("GET", f"/sms/{uuid}")
            return message["settled_at"] and message

        message: dict[str, Any] = await eventually(is_settled)
        return message


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path, {})
    yield launcher
    launcher.close()


async def ready(process: Launched) -> str:
    """The address that it says it listens at."""
    found: re.Match[str] = await eventually(
        lambda: READY.search(process.stderr) or process.runs is False, describe="it says that it is ready"
    )
    assert process.runs, process.stderr
    return found[1]


@pytest.fixture
async def stand_in(launcher: Launcher) -> AsyncIterator[StandIn]:
    process = launcher.start("smsim", "serve", "--port", 0)
    base = await ready(process)
    async with aiohttp.ClientSession() as session:
        yield StandIn(process, base, session)


async def test_what_is_sent_comes_to_the_inbox(stand_in: StandIn) -> None:
    """Singly, urgently and in a batch; who waits for a number gets its message, whatever others come."""
    waiting = asyncio.create_task(stand_in.ask("GET", f"/inbox/wait?to={ANNA}&timeout=60"))
    await stand_in.send(BERT, "not for Anna")
    uuid = await stand_in.send(ANNA, "your code is 4711")
    status, message = await waiting
    assert status == 200
    assert (message["uuid"], message["to"], message["text"]) == (uuid, ANNA, "your code is 4711")
    assert (await stand_in.settled(uuid))["status"] == "sent"

    body = [{"number": ANNA, "text": f"part {k}"} for k in range(300)]
    status, batch = await stand_in.ask("POST", "/sms/batch", body)
    assert (status, batch["count"]) == (202, 300)

    async def all_there() -> bool:
        _, inbox = await stand_in.ask("GET", f"/inbox?to={ANNA}&limit=1000")
        return {m["text"] for m in inbox["messages"]} >= {f"part {k}" for k in range(300)}

    await eventually(all_there)
    assert (await stand_in.ask("DELETE", "/inbox"))[0] == 204
    assert await stand_in.ask("GET", "/inbox") == (200, {"messages": []})


async def test_a_simulated_run_goes_to_its_end_and_leaves_the_inbox_alone(stand_in: StandIn) -> None:
    """POST /runs ends with progress 1, all sent; the inbox is for what was posted."""
    status, started = await stand_in.ask("POST", "/runs", {"num_messages": 20_000})
    assert status == 202

    async def over() -> Any:
        _, run = await stand_in.ask("GET", f"/runs/{started['run']}")
        return run["over"] and run

    run = await eventually(over)
    assert (run["progress"], run["sent"], run["failed"]) == (1, 20_000, 0)
    assert await stand_in.ask("GET", "/inbox") == (200, {"messages": []})


async def test_magic_numbers(stand_in: StandIn) -> None:
    """Each comes out as documented, over the whole way: attempts, steps and the time of a send."""
    fails, never, throttled, delayed = [await stand_in.send(magic.number()) for magic in Magic]
    message = await stand_in.settled(fails)
    assert (message["status"], message["attempts"]) == ("failed", 1)
    message = await stand_in.settled(never)
    assert (message["status"], message["attempts"]) == ("failed", DEFAULTS["max_attempts"])
    message = await stand_in.settled(throttled)
    assert (message["status"], message["attempts"]) == ("sent", 3)
    assert [(step["status"], step["attempt"]) for step in message["steps"]] == [
        *(("queued", 0), ("sending", 1), ("queued", 1)),
        *(("sending", 2), ("queued", 2), ("sending", 3), ("sent", 3)),
    ]
    message = await stand_in.settled(delayed)
    assert (message["status"], message["steps"][-1]["time_s"]) == ("sent", MagicBehaviour.delay_s)
    _, inbox = await stand_in.ask("GET", "/inbox")
    assert [m["uuid"] for m in inbox["messages"]] == [throttled, delayed]


def documented_commands() -> list[str]:
    """The curl commands that speak to a stand-in, of the README and of docs/stand-in.md, in their order."""
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## Send over HTTP") :].split("\n## ", 1)[0]
    text = section + (ROOT / "docs/stand-in.md").read_text()
    return re.findall(r"^curl .*$", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_of_the_documentation(launcher: Launcher) -> None:
    """As typed, in their order: each is answered, and with no error; a stream until its time is over."""
    process = launcher.start(
        *("smsim", "serve", "--port", 0), CALLBACK_SECRET=KEY, CALLBACK_ALLOW_PRIVATE="true"
    )
    base = await ready(process)
    commands = documented_commands()
    assert len(commands) > 10
    for command in commands:
        typed = command.replace("http://127.0.0.1:8000", base).replace("localhost:8000", base)
        assert base in typed, command
        curl = await asyncio.create_subprocess_exec(
            *(*shlex.split(typed), "--fail", "--silent", "--show-error"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await curl.communicate()
        answered = curl.returncode == 0 and (said or "DELETE" in command)
        assert answered or b"data:" in said, f"{command}\n{said.decode()}"


def test_the_example(tmp_path: Path) -> None:
    """examples/stand_in: a program's own tests, with a stand-in that they start themselves."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(ROOT / "examples/stand_in"),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = Launcher(tmp_path, {"PATH": path}).environment()
    env.pop("SMS_URL", None)
    ended = run_to_end(command, tmp_path, env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 passed" in ended.stdout


async def test_it_shows_all_that_a_gateway_shows(stand_in: StandIn) -> None:
    """Dashboard, document with the inbox in it, statistics, and metrics of the sender and the pipeline too."""
    async with stand_in.session.get(stand_in.base + "/") as page:
        assert (page.status, page.content_type) == (200, "text/html")
    _, document = await stand_in.ask("GET", "/openapi.json")
    assert {"/sms", "/inbox", "/inbox/wait", "/runs"} <= set(document["paths"])
    await eventually(lambda: _sender_there(stand_in))
    async with stand_in.session.get(stand_in.base + "/metrics") as metrics:
        text = await metrics.text()
    assert "smsim_sender_slots{" in text
    assert "smsim_messages_published_total" in text


async def _sender_there(stand_in: StandIn) -> bool:
    _, stats = await stand_in.ask("GET", "/stats")
    return bool(stats["senders"] == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_in_order_whoever_listens(stand_in: StandIn, number: signal.Signals) -> None:
    """Exit 0, though a send takes longer, and nothing amiss; streams and long polls are closed, not cut."""
    await stand_in.send(Magic.DELAYED.number())
    stream = await stand_in.session.get(stand_in.base + "/events")
    socket_ = await stand_in.session.ws_connect(stand_in.base + "/events")
    waiting = asyncio.create_task(stand_in.ask("GET", f"/inbox/wait?to={ANNA}&timeout=60"))
    await stream.content.readline()
    await socket_.receive()
    stand_in.process.signal(number)
    assert await stand_in.process.ended() == 0
    assert (await waiting)[0] == 503
    while not stream.content.at_eof():
        await stream.content.readline()
    said = stand_in.process.stderr.splitlines()
    assert READY.fullmatch(said[0])
    assert [json.loads(line)["event"] for line in said[1:]] == ["grace_over"], said
    assert stand_in.process.stdout == ""
    await socket_.close()


async def test_a_port_in_use(launcher: Launcher) -> None:
    """One line that names it, exit 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = launcher.start("smsim", "serve", "--port", port)
        assert await process.ended() == 1
    assert process.stderr.startswith(f"smsim serve: can't listen on 127.0.0.1:{port}: ")
    assert process.stderr.count("\n") == 1


async def test_others_come_in_with_a_key_only(launcher: Launcher) -> None:
    """Not on loopback, it needs a key to begin, exit 2 in one line; and then everybody needs it."""
    process = launcher.start("smsim", "serve", "--port", 0, "--host", "0.0.0.0")
    assert await process.ended() == 2
    assert "GATEWAY_API_KEY" in process.stderr
    assert process.stderr.count("\n") == 1
    process = launcher.start("smsim", "serve", "--port", 0, "--host", "0.0.0.0", GATEWAY_API_KEY=KEY)
    base = (await ready(process)).replace("0.0.0.0", "127.0.0.1")
    async with aiohttp.ClientSession() as session:
        stand_in = StandIn(process, base, session)
        assert (await stand_in.ask("GET", "/inbox"))[0] == 401
        assert (await stand_in.ask("GET", "/inbox", Authorization=f"Bearer {KEY}"))[0] == 200
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert KEY not in process.stderr


def test_its_defaults_give_way(bare_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a flag, to the environment whatever it says, and to `.env` unless that repeats a usual default."""
    assert stand_in_settings().mean_processing_time == DEFAULTS["mean_processing_time"]
    (bare_environment / ".env").write_text("MEAN_PROCESSING_TIME=2\nFAILURE_RATE=0.25\nGATEWAY_AUTH=true\n")
    settings = stand_in_settings()
    assert settings.mean_processing_time == DEFAULTS["mean_processing_time"]
    assert settings.failure_rate == 0.25
    assert not settings.gateway_auth
    monkeypatch.setenv("MEAN_PROCESSING_TIME", "2")
    assert stand_in_settings().mean_processing_time == 2
    assert stand_in_settings(mean_processing_time=0.0, failure_rate=0.1).mean_processing_time == 0
    assert stand_in_settings(failure_rate=0.1).failure_rate == 0.1


def test_it_takes_numbers_reserved_for_fiction(
    bare_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever provider `.env` names, since nothing is sent; unless the environment forbids them."""
    (bare_environment / ".env").write_text("PROVIDER=http\nPROVIDER_URL=http://127.0.0.1:9/\n")
    assert stand_in_settings().takes_reserved_numbers
    monkeypatch.setenv("RESERVED_NUMBERS", "false")
    assert not stand_in_settings().takes_reserved_numbers


def test_a_key_may_be_asked_for_on_loopback(bare_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GATEWAY_AUTH in the environment counts, and then there must be one."""
    monkeypatch.setenv("GATEWAY_AUTH", "true")
    with pytest.raises(UsageError, match="GATEWAY_API_KEY"):
        stand_in_settings()
    monkeypatch.setenv("GATEWAY_API_KEY", KEY)
    assert stand_in_settings().gateway_auth
    monkeypatch.setenv("GATEWAY_AUTH", "false")
    with pytest.raises(UsageError, match="loopback"):
        stand_in_settings(gateway_host="0.0.0.0")


async def test_old_runs_are_let_go(bare_environment: Path) -> None:
    """The newest stay, and whatever is not over or may go on: a memory that is bounded, and loses nothing open."""
    ledger = MemoryLedger()
    await ledger.begin("session", "{}", 0, "gateway")
    await ledger.announce("session", 0, 5)
    for run in ("open", "old", "new", "newest"):
        await ledger.begin(run, "{}", 10, "gateway")
        await ledger.announce(run, 0, 10)
    await _settle(ledger, "old", "new", "newest", "session")
    await forget_old_runs(ledger, Limits(runs=2))
    assert await ledger.runs() == ["session", "open", "new", "newest"]
    await forget_old_runs(ledger, Limits(messages=15))
    assert await ledger.runs() == ["session", "open", "newest"]


async def _settle(ledger: MemoryLedger, *runs: str) -> None:
    """All of their messages as sent."""
    for run in runs:
        count = (await ledger.publication(run)).announced
        await ledger.confirm(run, count)
        seqs = np.arange(count, dtype=np.int64)
        outcomes = Outcomes(seqs, np.full(count, Outcome.SENT, np.uint8), np.zeros(count, np.int64))
        await ledger.settle(run, outcomes)

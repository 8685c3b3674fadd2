"""A provider of a package outside this repository: the one of examples/provider, installed as pip would."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message
from common.settings import load_settings
from sender.copies import RetryPolicy
from sender.providers.registry import build_provider
from sender.service import Sender
from tests.e2e.processes import ROOT
from tests.providers import NUMBER, TEXT, StubService, stub_service
from tests.waiting import eventually

EXAMPLE = ROOT / "examples/provider"
RUN, COUNT = "outside", 60


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with the example's module and what pip writes about its package."""
    folder = tmp_path / "packages"
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = folder / f"smsim_acme-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["smsim.providers"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[smsim.providers]", *lines, ""]))
    shutil.copy(EXAMPLE / "smsim_acme.py", folder)
    return folder


@pytest.mark.usefixtures("bare_environment")
async def test_a_sender_sends_through_it(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROVIDER=acme: each message is posted to its service, and the ledger has what the service answered."""
    monkeypatch.syspath_prepend(str(packages))
    broker, ledger, stop = MemoryBroker(), MemoryLedger(), asyncio.Event()
    async with stub_service() as service:
        monkeypatch.setenv("ACME_URL", service.url)
        monkeypatch.setenv("ACME_TOKEN", "a-token")
        provider = build_provider(load_settings(provider="acme"))
        policy = RetryPolicy(max_attempts=2, backoff_s=0.01)
        sender = Sender("s", broker, ledger, provider, slots=20, policy=policy)
        await ledger.announce(RUN, 0, COUNT)
        last_digits = "0", StubService.REFUSED, StubService.DROPPED
        messages = [Message(seq, NUMBER[:-1] + last_digits[seq % 3], TEXT) for seq in range(COUNT)]
        await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
        running = asyncio.create_task(sender.run(stop))

        async def settled() -> bool:
            return (await ledger.snapshot(RUN)).settled == COUNT

        await eventually(settled)
        stop.set()
        await running
        await broker.close()
    end = await ledger.snapshot(RUN)
    assert Counter(service.accepted) == Counter(f"{RUN}.{seq}" for seq in range(0, COUNT, 3))
    assert (end.sent, end.failed, end.retried) == (COUNT // 3, 2 * COUNT // 3, COUNT // 3)
    assert end.ambiguous == 2 * COUNT // 3  # each dropped connection, at either attempt


def simulate(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`smsim simulate` as a process, with nothing of this environment but the import path."""
    return subprocess.run(
        [sys.executable, "-m", "simulation.cli", "simulate", "--num-messages", str(COUNT), "--json"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


async def test_a_command_finds_it(packages: Path) -> None:
    """Any command with a sender in it: here the embedded run, as a process of its own."""
    async with stub_service() as service:
        done = await asyncio.to_thread(
            simulate,
            packages,
            PYTHONPATH=f"{ROOT}:{packages}",
            PROVIDER="acme",
            ACME_URL=service.url,
            ACME_TOKEN="a-token",
        )
    assert done.returncode == 0, done.stderr
    assert len(service.accepted) + done.stdout.count("nothing else") <= COUNT
    assert json.loads(done.stdout)["sent"] == len(set(service.accepted))


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PROVIDER": "owl"}, "PROVIDER=owl: unknown provider; known: acme, "),
        ({"PROVIDER": "acme", "ACME_URL": "http://localhost/"}, "ACME_TOKEN is not set\n"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    packages: Path, environment: dict[str, str], line: str
) -> None:
    """An unknown name lists the known ones; a setting of the provider's own is named."""
    done = simulate(packages, PYTHONPATH=f"{ROOT}:{packages}", **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"smsim simulate: {line}")

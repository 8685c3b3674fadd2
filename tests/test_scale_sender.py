"""scale_sender.sh, beside a sender.py that only says how it was started and heeds or ignores SIGTERM."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import eventually

ROOT = Path(__file__).parent.parent

FAKE_SENDER = """
import signal, sys
if "--broken" in sys.argv and sys.argv[2].endswith("-2"):
    sys.exit("no broker")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped gracefully", flush=True)))
print(sys.argv[1:], flush=True)
while True:
    signal.pause()
"""


class Place:
    """A folder with the script and the fake sender."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "sender_logs"
        shutil.copy(ROOT / "scale_sender.sh", folder)
        (folder / "sender.py").write_text(FAKE_SENDER)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/python").symlink_to(sys.executable)

    def scale(self, *arguments: object, grace_s: str = "60") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["./scale_sender.sh", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "SHUTDOWN_GRACE": grace_s},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def processes(self) -> list[tuple[str, int]]:
        """The senders that run in this folder: the number in their name, and their process id."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # other processes come and go
                arguments = process.cmdline()
                if "sender.py" in arguments and process.cwd() == str(self.folder):
                    found.append((arguments[3].rsplit("-", 1)[1], process.pid))
        return found

    def senders(self) -> dict[str, int]:
        return dict(self.processes())

    def pid_files(self) -> set[str]:
        return {path.stem.rsplit("_", 1)[1] for path in self.logs.glob("*.pid")}

    def log(self, number: int) -> str:
        return (self.logs / f"sender_instance_{number}.log").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for pid in place.senders().values():
        os.kill(pid, signal.SIGKILL)


async def test_scales_up_and_down(place: Place) -> None:
    """N is what runs: from 3 to 2 one stops gracefully and two stay; what died comes back; 0 stops all."""
    up = place.scale(3, "--queue", "a b")
    assert up.returncode == 0, up.stderr
    first = place.senders()
    assert set(first) == place.pid_files() == {"1", "2", "3"}
    await eventually(lambda: all(place.log(number) for number in (1, 2, 3)))
    assert place.log(2) == f"['--name', '{os.uname().nodename}-2', '--queue', 'a b']\n"

    assert place.scale(2).returncode == 0
    assert place.senders() == {number: first[number] for number in ("1", "2")}
    assert place.log(3).endswith("stopped gracefully\n")

    os.kill(first["1"], signal.SIGKILL)
    await eventually(lambda: "1" not in place.senders())
    assert place.scale(2).returncode == 0
    assert set(place.senders()) == {"1", "2"}
    assert place.senders()["2"] == first["2"]

    assert place.scale(0).returncode == 0
    assert place.senders() == {}
    assert place.pid_files() == set()


def test_two_calls_at_once_start_no_sender_twice(place: Place) -> None:
    """The second call waits for the first and finds nothing left to do."""
    command = ["./scale_sender.sh", "2"]
    calls = [subprocess.Popen(command, cwd=place.folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(call.communicate(timeout=60)[0] for call in calls)

    assert [line.split(";")[0] for line in said] == [
        "2 running, 0 of them started now",
        "2 running, 2 of them started now",
    ]
    assert len(place.processes()) == 2


def test_leaves_other_processes_alone(place: Place) -> None:
    """A pid file that names a process which is no sender of ours is cleared; the process lives on."""
    place.logs.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=place.folder)
    try:
        (place.logs / "sender_instance_1.pid").write_text(str(other.pid))
        assert place.scale(0).returncode == 0
        assert other.poll() is None
        assert place.pid_files() == set()
    finally:
        other.kill()
        other.wait()


def test_says_which_sender_died_at_once(place: Place) -> None:
    """Of two senders one can't start: exit 1, with its number and its last words; the other runs."""
    for _ in range(5):  # on a slow machine it may run for longer than it is waited for
        result = place.scale(2, "--broken")
        if result.returncode:
            break
    assert result.returncode == 1
    assert result.stderr == "sender 2 ended at once: no broker\n"
    assert set(place.senders()) == place.pid_files() == {"1"}


async def test_says_when_it_has_to_kill(place: Place) -> None:
    """A sender that ignores SIGTERM is killed after SHUTDOWN_GRACE and 4 s, and not without saying so."""
    place.scale(1, "--stubborn")
    await eventually(lambda: place.log(1))
    result = place.scale(0, grace_s="0")
    assert result.stderr == "sender 1 did not stop within 4 s: killed\n"
    await eventually(lambda: not place.senders())  # the kernel may take a moment


@pytest.mark.parametrize("argument", ["", "-1", "abc", "1.5", "1000"])
def test_bad_number(place: Place, argument: str) -> None:
    """What is no number of senders is one clear line and exit 2."""
    result = place.scale(argument)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"'{argument}'" in result.stderr
    assert not place.logs.exists()

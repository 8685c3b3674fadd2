"""scale_sender.sh, beside a sender.py that only says how it was started and heeds or ignores SIGTERM."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.waiting import eventually

ROOT = Path(__file__).parent.parent

FAKE_SENDER = """
import signal, sys, time
if "--broken" in sys.argv and sys.argv[2].endswith("-2"):
    time.sleep(3)  # a far broker refuses late
    sys.exit("no broker")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped gracefully", flush=True)))
print(sys.argv[1:], flush=True)
print('{"event": "sender_started"}', flush=True)
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

    def scale(
        self,
        *arguments: object,
        grace_s: str = "60",
        by: Sequence[str] = ("./scale_sender.sh",),
        path: str = "",
    ) -> "subprocess.CompletedProcess[str]":
        """Calls the script; `path` goes first on PATH."""
        return subprocess.run(
            [*by, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "SHUTDOWN_GRACE": grace_s, "PATH": f"{path}:{os.environ['PATH']}"},
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
    assert place.log(2).startswith(f"['--name', '{os.uname().nodename}-2', '--queue', 'a b']\n")

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


def test_says_which_sender_could_not_start(place: Place) -> None:
    """Of two senders one ends after some seconds: exit 1, with its number and its last line; the other runs."""
    result = place.scale(2, "--broken")
    assert result.returncode == 1
    assert result.stderr == "sender 2 ended: no broker\n"
    assert set(place.senders()) == place.pid_files() == {"1"}


def test_finds_its_senders_after_the_host_was_renamed(place: Place, tmp_path: Path) -> None:
    """A host may get another name at any time, by DHCP for example."""
    assert place.scale(2).returncode == 0
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    (renamed / "uname").write_text("#!/bin/sh\necho renamed\n")
    (renamed / "uname").chmod(0o755)
    assert place.scale(2, path=str(renamed)).stdout.startswith("2 running, 0 of them started now")
    assert place.scale(0, path=str(renamed)).returncode == 0
    assert place.senders() == {}


def test_works_by_a_link_and_by_sh(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The senders run in the folder of the script, not in that of the link."""
    link = tmp_path_factory.mktemp("links") / "scale"
    link.symlink_to(place.folder / "scale_sender.sh")
    assert place.scale(1, by=[str(link)]).returncode == 0
    assert set(place.senders()) == {"1"}
    assert place.scale(0, by=["sh", "scale_sender.sh"]).returncode == 0
    assert place.senders() == {}


def test_works_with_closed_streams(place: Place) -> None:
    """As cron lines and daemons call it: it does its work, and says nothing."""
    for count, running in ((1, {"1"}), (0, set())):
        ended = place.scale(count, by=["bash", "-c", '"$0" "$@" <&- >&- 2>&-', "./scale_sender.sh"])
        assert ended.returncode == 0
        assert set(place.senders()) == running


async def test_says_when_it_has_to_kill(place: Place) -> None:
    """A sender that ignores SIGTERM is killed after SHUTDOWN_GRACE and 4 s, and not without saying so."""
    place.scale(1, "--stubborn")
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

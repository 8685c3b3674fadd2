"""Load for a gateway: single requests by wrk, batches by clients of our own."""

import asyncio
import json
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from studies.process import BenchmarkFailed

SCRIPT = Path(__file__).with_name("wrk.lua")
JSON, NDJSON = "application/json", "application/x-ndjson"
TIMEOUT_S = 60
# Valid numbers of four countries.
NUMBERS = ("+541160{:06d}", "+35840{:07d}", "+9198{:08d}", "+491512{:07d}")
TEXT_CHARS = 100


@dataclass(frozen=True)
class Requests:
    """What wrk saw of requests that all went well. Times in seconds."""

    done: int
    time_s: float
    p50_s: float
    p99_s: float

    @property
    def rate_per_s(self) -> float:
        """Requests per second."""
        return self.done / self.time_s


@dataclass(frozen=True)
class Posted:
    """Batches that were accepted: the run of each, and how long all of them together took, in seconds."""

    runs: list[str]
    time_s: float


def messages(count: int) -> list[dict[str, str]]:
    """The same ones each time: numbers in E.164, texts of 100 characters that are not all alike."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(1000)]
    texts = [" ".join(draw.choices(words, k=40))[:TEXT_CHARS] for _ in range(count)]
    return [{"number": NUMBERS[k % len(NUMBERS)].format(k), "text": text} for k, text in enumerate(texts)]


def wrk_version() -> str:
    """Raises BenchmarkFailed where it is not installed."""
    said = subprocess.run([_wrk(), "--version"], capture_output=True, text=True, check=False).stdout
    return said.split()[1].removeprefix("debian/")


async def requests(method: str, url: str, file: Path, key: str, connections: int, seconds: int) -> Requests:
    """Lets wrk send the requests of a file in turn, over so many connections. Raises BenchmarkFailed if one fails."""
    command = [_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT), url, "--", method, str(file), key]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, log = await process.communicate()
    if process.returncode != 0:
        raise BenchmarkFailed(f"wrk ended with {process.returncode}: {log.decode()[-500:]}")
    said = json.loads(out.splitlines()[-1])
    if said["refused"] or said["broken"] or not said["requests"]:
        raise BenchmarkFailed(f"{method} {url}: {said}")
    return Requests(said["requests"], *(said[name] / 1e6 for name in ("time_us", "p50_us", "p99_us")))


async def batches(
    url: str, key: str, kind: str, body: bytes, messages: int, requests: int, at_once: int
) -> Posted:
    """Posts one body of so many messages again and again, `at_once` clients at a time.

    Raises BenchmarkFailed if one is refused, or not answered with an id for each message.
    """
    shares = [requests // at_once + (k < requests % at_once) for k in range(at_once)]
    began_s = time.perf_counter()
    answers = await asyncio.gather(*(asyncio.to_thread(_post, url, key, kind, body, n) for n in shares))
    time_s = time.perf_counter() - began_s
    runs = []
    for answer in (one for of_client in answers for one in of_client):
        accepted = json.loads(answer)
        if not accepted["count"] == len(set(accepted["ids"])) == messages:
            raise BenchmarkFailed(f"a batch of {messages} was answered with {accepted['count']} ids")
        runs.append(accepted["run"])
    return Posted(runs, time_s)


def _post(url: str, key: str, kind: str, body: bytes, times: int) -> list[bytes]:
    host, _, path = url.removeprefix("http://").partition("/")
    client = HTTPConnection(host, timeout=TIMEOUT_S)
    answers = []
    for _ in range(times):
        client.request("POST", f"/{path}", body, {"Content-Type": kind, "Authorization": f"Bearer {key}"})
        with client.getresponse() as response:
            answers.append(response.read())
            if response.status != 202:
                raise BenchmarkFailed(f"POST /sms/batch: {response.status} {answers[-1][:300]!r}")
    client.close()
    return answers


def _wrk() -> str:
    program = shutil.which("wrk")
    if program is None:
        raise BenchmarkFailed("wrk is not installed: make bench-gateway installs it on Debian and Ubuntu")
    return program

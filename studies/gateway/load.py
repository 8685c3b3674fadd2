"""Load on a gateway: single messages by wrk, many messages a request by clients of our own."""

import asyncio
import json
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from studies.process import StudyFailed

SCRIPT = Path(__file__).with_name("wrk.lua")
JSON, NDJSON = "application/json", "application/x-ndjson"
POST, GET = "POST", "GET"
# Valid numbers of four countries.
NUMBERS = ("+541160{:06d}", "+35840{:07d}", "+9198{:08d}", "+491512{:07d}")


@dataclass(frozen=True)
class Requests:
    """The result of wrk; each request was answered as expected.

    Attributes:
        done, time_s: How many requests, and how long all of them took.
        p50_s, p99_s: Percentiles of the time of a request.
    """

    done: int
    time_s: float
    p50_s: float
    p99_s: float

    @property
    def rate_per_s(self) -> float:
        """Requests per second."""
        return self.done / self.time_s


@dataclass(frozen=True)
class Wrk:
    """wrk as it is run here: it sends the lines of a file in turn, as bodies or as paths.

    Attributes:
        method: POST, with bodies in the file, or GET, with paths in it.
        url, key: Where to, with which API key.
        file: The file.
    """

    method: str
    url: str
    file: Path
    key: str

    async def run(self, connections: int, seconds: int) -> Requests:
        """Sends requests for some seconds. Raises StudyFailed if one fails."""
        command = [_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", "60s", "--script", str(SCRIPT)]
        command += [self.url, "--", self.method, str(self.file), self.key]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        out, log = await process.communicate()
        if process.returncode != 0:
            raise StudyFailed(f"wrk ended with exit code {process.returncode}: {log.decode()[-500:]}")
        seen = json.loads(out.splitlines()[-1])
        if seen["refused"] or seen["broken"] or not seen["requests"]:
            raise StudyFailed(f"{self.method} {self.url}: {seen}")
        return Requests(
            done=seen["requests"],
            time_s=seen["time_us"] / 1e6,
            p50_s=seen["p50_us"] / 1e6,
            p99_s=seen["p99_us"] / 1e6,
        )


@dataclass(frozen=True)
class Posted:
    """Requests with many messages that were accepted.

    Attributes:
        runs: The run of each.
        time_s: How long all of them took together.
    """

    runs: list[str]
    time_s: float


@dataclass(frozen=True)
class Upload:
    """A body with many messages.

    Attributes:
        url, key: Where to post it, with which API key.
        kind, body: Its media type and its bytes.
        messages: How many messages it has.
    """

    url: str
    key: str
    kind: str
    body: bytes
    messages: int

    async def post(self, requests: int, at_once: int) -> Posted:
        """Posts it again and again, by some clients at a time.

        Raises StudyFailed if one is refused, or its answer lacks an id for each message.
        """
        shares = [requests // at_once + (k < requests % at_once) for k in range(at_once)]
        began_s = time.perf_counter()
        answers = await asyncio.gather(*(asyncio.to_thread(self._post, share) for share in shares))
        time_s = time.perf_counter() - began_s
        return Posted([self._run_of(answer) for client in answers for answer in client], time_s)

    def _run_of(self, answer: bytes) -> str:
        accepted = json.loads(answer)
        if not accepted["count"] == len(set(accepted["ids"])) == self.messages:
            raise StudyFailed(f"{self.messages} messages were answered with {accepted['count']} ids")
        return str(accepted["run"])

    def _post(self, times: int) -> list[bytes]:
        host, _, path = self.url.removeprefix("http://").partition("/")
        client = HTTPConnection(host, timeout=60)
        headers = {"Content-Type": self.kind, "Authorization": f"Bearer {self.key}"}
        answers = []
        for _ in range(times):
            client.request("POST", f"/{path}", self.body, headers)
            with client.getresponse() as response:
                answers.append(response.read())
                if response.status != 202:
                    raise StudyFailed(f"POST {path}: {response.status} {answers[-1][:300]!r}")
        client.close()
        return answers


def messages(count: int) -> list[dict[str, str]]:
    """The same messages each time: numbers in E.164, texts of 100 characters that are not all alike."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(1000)]
    texts = [" ".join(draw.choices(words, k=40))[:100] for _ in range(count)]
    return [{"number": NUMBERS[k % len(NUMBERS)].format(k), "text": text} for k, text in enumerate(texts)]


def wrk_version() -> str:
    """Raises StudyFailed if wrk is not installed."""
    output = subprocess.run([_wrk(), "--version"], capture_output=True, text=True, check=False).stdout
    return output.split()[1].removeprefix("debian/")


def _wrk() -> str:
    program = shutil.which("wrk")
    if program is None:
        raise StudyFailed("wrk is not installed: make bench-gateway installs it on Debian and Ubuntu")
    return program

"""Bad input and trouble: one clear line on stderr, the right exit code, no traceback, and nothing half-published."""

from signal import SIGINT
from typing import Any

import psutil
import pytest

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.runners import free_port
from tests.servers import RedisServer
from tests.waiting import eventually

RANDOM = ("--num-messages", 10)


async def complaint(launched: Launched, code: int) -> str:
    """The one line that it said before it ended with this code; JSON lines of the log are not counted."""
    assert await launched.ended() == code, launched.stderr
    lines = [line for line in launched.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, launched.stderr
    assert "Traceback" not in launched.stdout
    return lines[0]


def assert_untouched(pipeline: Pipeline) -> None:
    """Nothing was published, and the ledger has not heard of anything."""
    assert pipeline.redis.dbsize() == 0
    assert set(pipeline.depths().values()) <= {0}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FAILURE_RATE", 1.5), ("BATCH_SIZE", 0), ("RABBITMQ_PORT", "x"), ("QUEUE_TYPE", "fast")],
)
async def test_a_bad_setting(pipeline: Pipeline, variable: str, value: object) -> None:
    """Every command names the variable and its value, with exit code 2."""
    for launched in _start_all(pipeline, **{variable: value}):
        said = await complaint(launched, 2)
        assert said.startswith(f"{launched.program}: {variable}={value}: ")
    assert_untouched(pipeline)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--num-messages", -1), "'-1' is not a whole number"),
        (("--num-messages", "abc"), "'abc' is not a whole number"),
        (("--num-messages", 0), "'0' is not a whole number"),
        (("--num-messages", 10, "--batch-size", 10_001), "'10001' is not a whole number from 1 to 10000"),
        (("--num-messages", 10, "--run", "No Name"), "'No Name' is no name for a run"),
        (("--num-messages", 10, "--text", "x"), "--text goes with --contacts"),
        ((), "one of the arguments"),
        (("--contacts", "missing.csv"), "missing.csv: can't be read: No such file"),
    ],
)
async def test_bad_arguments(pipeline: Pipeline, arguments: tuple[object, ...], says: str) -> None:
    """Arguments that make no sense stop the producer before it connects, with exit code 2."""
    assert says in await complaint(pipeline.producer(*arguments), 2)
    assert_untouched(pipeline)


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (b"", (), "the file is empty"),
        (b"number\n", ("--text", "Hi"), "no contact to send to: it has no rows"),
        (
            b"name,age\nAnn,7\n",
            (),
            "contacts.csv: no column named number or phone: the first row must be a header",
        ),
        (b"number,name\n+358401234567,J\xe4\n", ("--text", "Hi"), "contacts.csv: line 2: not UTF-8"),
        (b"number\n+358401234567\n", ("--text", "Hi {name}"), "no column {name}"),
        (
            b"number\n0401234567\n",
            ("--text", "Hi"),
            "no contact to send to: line 2: number: not in international form",
        ),
    ],
)
async def test_a_bad_contacts_file(
    pipeline: Pipeline, content: bytes, arguments: tuple[str, ...], says: str
) -> None:
    """A file that gives no run names itself and what is wrong, with exit code 2."""
    (pipeline.folder / "contacts.csv").write_bytes(content)
    said = await complaint(pipeline.producer("--contacts", "contacts.csv", *arguments), 2)
    assert says in said
    assert_untouched(pipeline)


async def test_bad_rows(pipeline: Pipeline) -> None:
    """Bad rows are reported by line and skipped; with `--strict` they stop the run before anything is published."""
    (pipeline.folder / "contacts.csv").write_text(
        "name,number\nAnn,+358401234567\nBob,0401234567\nCid,\nDan,+358401234568\n"
    )
    reported = [
        "contacts.csv: line 3: number: not in international form: begin with + and the country code: skipped",
        "contacts.csv: line 4: no number: skipped",
    ]

    strict = pipeline.producer("--contacts", "contacts.csv", "--text", "Hi", "--strict")
    assert await strict.ended() == 2
    *rows, last = strict.stderr.splitlines()
    assert rows == reported
    assert last == "producer.py: contacts.csv: 2 bad rows and --strict: nothing was published"
    assert_untouched(pipeline)

    lenient = pipeline.producer("--contacts", "contacts.csv", "--text", "Hi")
    assert await lenient.ended() == 0
    assert lenient.stderr.splitlines() == reported
    assert (lenient.events[-1]["published"], lenient.events[-1]["skipped"]) == (2, 2)
    assert pipeline.depths()[pipeline.queue] == 2


@pytest.mark.parametrize(
    ("program", "server"),
    [
        *(("producer.py", server) for server in ("RABBITMQ", "REDIS")),
        *(("sender.py", server) for server in ("RABBITMQ", "REDIS")),
        ("monitor.py", "REDIS"),
    ],
)
async def test_a_server_that_is_not_there(pipeline: Pipeline, program: str, server: str) -> None:
    """After --connect-timeout it says which server, where, and which settings to look at; exit code 1."""
    arguments = RANDOM if program == "producer.py" else ()
    port = free_port()
    launched = pipeline.start(program, *arguments, "--connect-timeout", 1, **{f"{server}_PORT": port})
    said = await complaint(launched, 1)
    assert f":{port} " in said
    assert f"({server}_HOST, {server}_PORT)" in said
    assert_untouched(pipeline)


async def test_a_wrong_rabbitmq_password(pipeline: Pipeline) -> None:
    """It is said at once, whatever --connect-timeout is; exit code 1."""
    for launched in _start_all(pipeline, "--connect-timeout", 3600, RABBITMQ_PASSWORD="not-the-one")[:2]:
        said = await complaint(launched, 1)
        assert "refuses the login: ACCESS_REFUSED" in said
        assert said.endswith(": check RABBITMQ_USER and RABBITMQ_PASSWORD")
        assert "not-the-one" not in said + launched.stdout
    assert_untouched(pipeline)


@pytest.mark.parametrize("password", ["not-the-one", ""])
async def test_a_wrong_redis_password(pipeline: Pipeline, password: str) -> None:
    """It is said at once, whatever --connect-timeout is; exit code 1. The same for a password that is missing."""
    with RedisServer(password="the-one") as locked:
        servers = {"REDIS_PORT": locked.port, "REDIS_PASSWORD": password}
        for launched in _start_all(pipeline, "--connect-timeout", 3600, **servers):
            said = await complaint(launched, 1)
            assert "check REDIS_PASSWORD" in said
            assert "not-the-one" not in said + launched.stdout
    assert_untouched(pipeline)


async def test_a_key_that_others_have_overwritten(pipeline: Pipeline) -> None:
    """Every command ends with exit code 1 and Redis's own words, a sender that runs as well."""
    sender = pipeline.sender()
    await eventually(lambda: sender.logged("sender_started"))
    for key in ("sms:stats", "sms:senders"):
        with pipeline.redis.pipeline() as both:  # the sender would write the key in between
            both.delete(key)
            both.rpush(key, "not ours")
            both.execute()
    for launched in (sender, pipeline.producer(*RANDOM), pipeline.monitor("--once")):
        assert "Redis refuses: WRONGTYPE Operation against a key" in await complaint(launched, 1)


@pytest.mark.parametrize("program", ["producer.py", "sender.py"])
async def test_a_changed_queue_type(pipeline: Pipeline, program: str) -> None:
    """Queues that stand as quorum are refused as classic in one line that names setting and queue; exit code 1."""
    await pipeline.published(*RANDOM)
    arguments = (*RANDOM, "--run", "other") if program == "producer.py" else ()

    said = await complaint(pipeline.start(program, *arguments, QUEUE_TYPE="classic"), 1)

    assert "QUEUE_TYPE=classic" in said
    assert pipeline.queue in said
    assert not pipeline.redis.exists("sms:run:other")
    assert pipeline.depths()[pipeline.queue] == 10


async def test_ctrl_c_in_mid_work(pipeline: Pipeline) -> None:
    """SIGINT ends each of the commands, with no traceback; the producer says how to go on."""
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.1)
    monitor = pipeline.monitor("--update-interval", 0.1)
    producer = pipeline.producer("--num-messages", 10_000_000, "--run", "long")
    # It tells of a misspelt setting, and nothing else, once all is loaded.
    simulation = pipeline.start(
        *("smsim", "simulate", "--num-messages", 10_000_000, "--json", "--mean-processing-time", 0.1),
        SENDER_CONCURENCY=1,
    )
    await pipeline.progress("long", 10)
    await eventually(lambda: monitor.logged("statistics"))
    await eventually(lambda: simulation.logged("unknown_setting"))
    loaded_s = _cpu_s(simulation)
    await eventually(lambda: _cpu_s(simulation) > loaded_s + 0.5)

    codes: dict[str, Any] = {}
    for launched in (producer, sender, monitor, simulation):
        launched.signal(SIGINT)
        codes[launched.name[2:]] = await launched.ended()

    assert codes == {"producer": 130, "sender": 0, "monitor": 0, "smsim": 1}
    assert producer.stderr == "stopped: continue with --resume long\n"
    for launched in (sender, monitor):
        assert launched.stderr == ""
    assert simulation.stderr.count("\n") == 1
    now = await pipeline.ledger.snapshot("long")
    assert now.sending == 0


def _cpu_s(launched: Launched) -> float:
    return psutil.Process(launched.pid).cpu_times().user


@pytest.mark.parametrize("program", ["producer.py", "sender.py"])
async def test_ctrl_c_while_connecting(pipeline: Pipeline, program: str) -> None:
    """SIGINT ends what waits for a RabbitMQ that is not there, with no traceback."""
    arguments = RANDOM if program == "producer.py" else ()
    launched = pipeline.start(program, *arguments, RABBITMQ_PORT=free_port())
    await eventually(lambda: launched.logged("broker_unreachable"))
    launched.signal(SIGINT)
    assert await launched.ended() == 130
    assert not [line for line in launched.stderr.splitlines() if not line.startswith("{")]
    assert_untouched(pipeline)


def _start_all(pipeline: Pipeline, *arguments: object, **env: object) -> list[Launched]:
    """Producer, sender and monitor, side by side."""
    return [
        pipeline.producer(*RANDOM, *arguments, **env),
        pipeline.sender(*arguments, **env),
        pipeline.monitor(*arguments, **env),
    ]

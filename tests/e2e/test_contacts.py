"""`producer.py --contacts`: what is dropped is counted, pipes and signals are heeded, and a dry run needs no server."""

import json
import os
import signal

import pytest

from tests.e2e.pipeline import Pipeline
from tests.e2e.test_bad_input import assert_untouched, complaint
from tests.runners import free_port
from tests.waiting import eventually

A, B = "+358401234567", "+358401234568"


def bodies(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Numbers and texts of all messages on the queue, in their order."""
    channel = pipeline.channel()
    found = []
    while (body := channel.basic_get(pipeline.queue, auto_ack=True)[2]) is not None:
        found += [(to, text) for _, to, text in json.loads(body)["messages"]]
    channel.connection.close()
    return found


async def test_the_closing_line_counts_what_is_dropped(pipeline: Pipeline) -> None:
    """Bad rows are listed up to a limit; the counts are in the closing line, on stderr, and refused by --strict."""
    (pipeline.folder / "c.csv").write_text(f"number,name\n{A},Ann\n{B},Bob\n{A},Ann\n" + "12,Bad\n" * 1_000)
    run = ("--contacts", "c.csv", "--text", "Hi {name}")

    report = await pipeline.published(*run)
    assert (report["published"], report["skipped"], report["duplicates"]) == (3, 1_000, 1)
    assert bodies(pipeline) == [(A, "Hi Ann"), (B, "Hi Bob"), (A, "Hi Ann")]

    once = pipeline.producer(*run, "--once")
    assert await once.ended() == 0
    assert (once.events[-1]["published"], once.events[-1]["duplicates"]) == (2, 1)
    assert bodies(pipeline) == [(A, "Hi Ann"), (B, "Hi Bob")]
    *listed, more, repeated = once.stderr.splitlines()
    assert len(listed) == 100
    assert more == "c.csv: 900 more rows skipped, 1,000 in all"
    assert repeated.startswith("c.csv: 1 row repeats the number and text of an earlier row")

    strict = pipeline.producer(*run, "--strict")
    assert await strict.ended() == 2
    assert strict.stderr.splitlines()[-1] == (
        "producer.py: c.csv: 1,000 bad rows, 1 repeated row and --strict: nothing was published"
    )
    assert bodies(pipeline) == []


async def test_a_dry_run_needs_no_server(pipeline: Pipeline) -> None:
    """It tells what would be sent in segments, which row is the dearest and why, and what would be dropped."""
    (pipeline.folder / "c.csv").write_text(
        f"number,name\n{A},Ann\n{B},{'x' * 70}\u00a0\u00a0x\n{A},Ann\n12,Bad\n{A},{'y' * 200}\n"
    )
    run = pipeline.producer(
        *("--contacts", "c.csv", "--text", "Hi {name}", "--dry-run", "--connect-timeout", 1),
        RABBITMQ_PORT=free_port(),
        REDIS_PORT=free_port(),
    )
    assert await run.ended() == 0, run.stderr
    (said,) = run.events
    assert said == {
        "dry_run": True,
        "messages": 4,
        "segments": 6,
        "encodings": {"GSM-7": {"messages": 3, "segments": 4}, "UCS-2": {"messages": 1, "segments": 2}},
        "dearest": {
            "line": 3,
            "segments": 2,
            "encoding": "UCS-2",
            "character": "U+00A0 NO-BREAK SPACE",
            "at": 74,
        },
        "rows": 5,
        "skipped": 1,
        "duplicates": 1,
        "bad_rows": [
            {"line": 5, "reason": "number: not in international form: begin with + and the country code"}
        ],
    }
    assert_untouched(pipeline)


async def test_a_dry_run_of_random_messages(pipeline: Pipeline) -> None:
    """Random messages have a seq and no line."""
    run = pipeline.producer("--num-messages", 20, "--dry-run", REDIS_PORT=free_port())
    assert await run.ended() == 0, run.stderr
    assert (run.events[0]["messages"], run.events[0]["dearest"]["seq"]) == (20, 0)


async def test_a_pipe_is_published(pipeline: Pipeline) -> None:
    """It is read once, to its end; the run can't be resumed, and says why."""
    pipe = pipeline.folder / "pipe"
    os.mkfifo(pipe)
    run = pipeline.producer("--contacts", "pipe", "--text", "Hi {name}", "--run", "piped")
    pipe.write_text(f"number,name\n{A},Ann\n{B},Bob\n")
    assert await run.ended() == 0, run.stderr
    assert bodies(pipeline) == [(A, "Hi Ann"), (B, "Hi Bob")]
    resumed = pipeline.producer("--resume", "piped")
    assert "came from a pipe, so its messages can't be made again" in await complaint(resumed, 2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", ["producer.py", "smsim"])
async def test_signals_are_heeded_while_a_pipe_is_silent(
    pipeline: Pipeline, program: str, number: signal.Signals, code: int
) -> None:
    """Nobody writes into it."""
    os.mkfifo(pipeline.folder / "pipe")
    command = (program,) if program == "producer.py" else (program, "simulate")
    # It logs a misspelt setting when all is loaded, just before it opens the pipe.
    run = pipeline.start(*command, "--contacts", "pipe", "--text", "Hi", SENDER_CONCURENCY=1)
    await eventually(lambda: run.logged("unknown_setting"))
    run.signal(number)
    assert await run.ended() == code, run.stderr
    assert "Traceback" not in run.stderr
    assert_untouched(pipeline)


@pytest.mark.parametrize("header", ["\x1b[31mphone no\x1b]0;x\x07,a", "number,na\x1b[31mme\u202e"])
async def test_terminal_escapes_are_shown_and_not_sent(pipeline: Pipeline, header: str) -> None:
    """Whatever a file holds, the terminal gets what it prints; a file's name may hold escapes too."""
    (pipeline.folder / "c\x1b[2J.csv").write_text(f"{header}\n{A},Ann\n")
    said = await complaint(pipeline.producer("--contacts", "c\x1b[2J.csv", "--text", "Hi {b}"), 2)
    assert said.isprintable()
    assert "\\x1b[" in said

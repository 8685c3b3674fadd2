"""The stack, run for real: shared work, scaling, deaths, and what survives."""

import asyncio
import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.docker.stack import Stack, run
from tests.gateway.posting import post_all
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

MESSAGES = 6_000


def monitor_lines(stack: Stack) -> list[dict[str, object]]:
    lines = (
        line[line.index("{") :]
        for line in stack.compose("logs", "--no-color", "monitor").splitlines()
        if "{" in line
    )
    return [entry for entry in map(json.loads, lines) if entry["event"] == "statistics"]


async def test_five_senders_share_a_run_that_the_host_published(stack: Stack) -> None:
    """The monitor's log ends with sent + failed = 1000, and each sender had its share."""
    await eventually(lambda: stack.redis().zcard("sms:senders") == 5, 60)
    report = stack.publish("--num-messages", 1000, "--wait")
    assert stack.settled(report["run"], 1000)

    def logged() -> bool:
        last = monitor_lines(stack)[-1]
        return (last["published"], last["queued"], last["sending"]) == (1000, 0, 0)

    await eventually(logged)
    last = monitor_lines(stack)[-1]
    assert int(str(last["sent"])) + int(str(last["failed"])) == 1000
    redis: Any = stack.redis()
    shares = [int(redis.hget(key, "sent") or 0) for key in redis.keys("sms:sender:*")]
    assert len(shares) == 5
    assert min(shares) >= 50


async def test_the_producer_runs_in_a_container_too(stack: Stack) -> None:
    """`docker-compose run --rm producer` publishes and prints its closing line."""
    out = stack.compose("run", "--rm", "-T", "producer", "--num-messages", "100", "--run", "contained")
    assert json.loads(out.splitlines()[-1])["published"] == 100
    await eventually(lambda: stack.settled("contained", 100), 60)


async def test_scaling_in_mid_run_loses_nothing(stack: Stack) -> None:
    """Up to 8 and down to 2 while messages flow."""
    messages = 2 * MESSAGES
    producer = stack.start_producer("--num-messages", messages, "--run", "scaled", "--wait")
    for senders in (8, 2):
        await eventually(lambda: stack.counter("scaled", "sent") > 0, 60)
        assert not stack.settled("scaled", messages), "over before it was scaled: publish more"
        stack.up(senders, "--no-recreate")
    await eventually(lambda: stack.settled("scaled", messages), 120)
    assert producer.wait(30) == 0
    assert len(stack.containers("sender")) == 2


@pytest.mark.parametrize("service", ["sender", "monitor", "gateway", "rabbitmq", "redis"])
async def test_a_killed_container_comes_back_and_the_totals_are_exact(stack: Stack, service: str) -> None:
    """SIGKILL of its main process in mid-run: it restarts by itself, and every message is counted once."""
    stack.up(3, "--no-recreate")
    run_id = f"killed-{service}"
    producer = stack.start_producer("--num-messages", MESSAGES, "--run", run_id, "--wait")
    await eventually(lambda: stack.counter(run_id, "sent") > 0, 60)
    assert not stack.settled(run_id, MESSAGES), "over before anything was killed: publish more"
    killed = stack.kill_main_process(service)

    def is_back() -> bool:
        state = json.loads(run("docker", "inspect", killed).stdout)[0]
        return bool(state["RestartCount"] >= 1 and state["State"]["Running"])

    await eventually(is_back, 60)
    assert producer.wait(300) == 0, producer.stderr
    await eventually(lambda: stack.settled(run_id, MESSAGES), 120)


async def test_messages_over_http_are_kept_whatever_dies(stack: Stack) -> None:
    """The gateway and a sender are killed while 3,000 messages are posted: every key gives one message, every message
    ends as sent or failed; and the dashboard is there.
    """
    stack.up(3, "--no-recreate")
    uuids: dict[int, str] = {}
    async with stack.http() as http:
        async with http.get("/") as page:
            assert (page.status, page.content_type) == (200, "text/html")
        async with http.get("/runs", headers={"Authorization": "Bearer another-key-of-nobody"}) as refused:
            assert refused.status == 401
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(post_all(http, 3_000, 24, uuids))
            for share, service in ((500, "sender"), (1_000, "gateway")):
                await eventually(lambda: len(uuids) >= share, 60)  # noqa: B023  # awaited before the next turn
                assert len(uuids) < 3_000, "over before anything was killed: post more"
                await asyncio.to_thread(stack.kill_main_process, service)
        assert len(set(uuids.values())) == 3_000

        async def all_ended() -> bool:
            async with http.get("/runs?limit=1000") as answer:
                runs = {run["run"]: run for run in (await answer.json())["runs"]}
            mine = [runs[name] for name in {uuid.partition(".")[0] for uuid in uuids.values()}]
            assert all(run["queued"] == run["sending"] == 0 for run in mine), mine
            assert sum(run["sent"] + run["failed"] for run in mine) >= 3_000
            return True

        await eventually(all_ended, 90)


async def test_every_container_is_healthy(stack: Stack) -> None:
    """Also after all that was done to them."""

    def all_are() -> bool:
        services = ("rabbitmq", "redis", "sender", "monitor", "gateway")
        states = [c["State"]["Health"]["Status"] for service in services for c in stack.containers(service)]
        assert len(states) >= 5
        return set(states) == {"healthy"}

    await eventually(all_are, 90)


async def test_redis_has_refused_nothing_to_a_service(stack: Stack) -> None:
    """Each had all permissions that it needed for what was done here."""
    assert stack.redis().acl_log() == []


async def test_no_secret_is_in_a_containers_description(stack: Stack) -> None:
    """Neither in its environment nor in its command: `docker inspect` shows both."""
    for service in ("rabbitmq", "redis", "sender", "monitor", "gateway"):
        assert stack.password not in json.dumps(stack.containers(service))


async def test_nobody_looks_each_second_for_queues_that_are_not_there(stack: Stack) -> None:
    """Each look in vain leaves two lines in RabbitMQ's log, among which its real errors would not be found."""
    logged = stack.compose("logs", "--no-color", "rabbitmq")
    in_vain = Counter(re.findall(r"no queue '([^']+)'", logged))
    minutes = 1 + len(monitor_lines(stack)) / 60  # a line each second
    assert max(in_vain.values(), default=0) <= 4 * minutes + 4


async def test_full_memory_is_refused_before_the_kernel_ends_anybody(stack: Stack) -> None:
    """Both servers know of a limit that is below their container's."""
    limit = stack.redis().config_get("maxmemory")["maxmemory"] or 0
    (redis,) = stack.containers("redis")
    assert 0 < int(limit) < 0.7 * redis["HostConfig"]["Memory"]
    said = stack.compose(
        "exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "eval", "vm_memory_monitor:get_memory_limit()."
    )
    (rabbitmq,) = stack.containers("rabbitmq")
    assert 0 < int(said.strip()) < 0.7 * rabbitmq["HostConfig"]["Memory"]


async def test_a_backlog_and_the_totals_survive_down_and_up(stack: Stack) -> None:
    """Nobody is killed by `down`: each service ends by itself on SIGTERM; what was queued is sent after `up`."""
    stack.up(0, "--no-recreate")
    report = stack.publish("--num-messages", 500)
    before = stack.redis().hgetall("sms:stats")
    services = [
        c["Id"] for service in ("monitor", "gateway", "rabbitmq", "redis") for c in stack.containers(service)
    ]
    stack.compose("stop")
    codes = [json.loads(run("docker", "inspect", c).stdout)[0]["State"]["ExitCode"] for c in services]
    assert 128 + signal.SIGKILL not in codes
    stack.down()
    stack.up(0)
    assert stack.redis().hgetall("sms:stats") == before
    stack.up(2)
    await eventually(lambda: stack.settled(report["run"], 500), 120)


async def test_a_backup_brings_queue_and_ledger_back(stack: Stack, tmp_path: Path) -> None:
    """Not of a stack that runs, nor of a project that is not there; and what was deleted is sent after the restore."""
    stack.up(0, "--no-recreate")
    report = stack.publish("--num-messages", 500)
    before = stack.redis().hgetall("sms:stats")
    env = {**stack.env, "COMPOSE_PROJECT_NAME": stack.project}
    file = tmp_path / "backup.tar"
    refused = run("scripts/backup.sh", str(file), env=env, check=False)
    assert (refused.returncode, "the stack runs" in refused.stderr) == (1, True)
    stack.compose("stop")
    refused = run(
        "scripts/backup.sh", str(file), env={**env, "COMPOSE_PROJECT_NAME": "smsim-nobodys"}, check=False
    )
    assert (refused.returncode, "no volume smsim-nobodys_" in refused.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    run("scripts/backup.sh", str(file), env=env)
    stack.down("--volumes")
    stack.compose("up", "--no-start")
    run("scripts/restore.sh", str(file), env=env)
    stack.up(0)
    assert stack.redis().hgetall("sms:stats") == before
    stack.up(2)
    await eventually(lambda: stack.settled(report["run"], 500), 120)


async def test_senders_stop_gracefully(stack: Stack) -> None:
    """SIGTERM through the engine: exit code 0, well before it would kill."""
    stack.up(2, "--no-recreate")
    await eventually(lambda: len(stack.containers("sender")) == 2)
    senders = [c["Id"] for c in stack.containers("sender")]
    stack.compose("stop", "sender")
    codes = [json.loads(run("docker", "inspect", c).stdout)[0]["State"]["ExitCode"] for c in senders]
    assert codes == [0, 0]

"""The services as the compose stack's own users: they may do all that they do, and no more."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from common.keys import Keys
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_gateway import Gateway
from tests.gateway.posting import post_all
from tests.servers import RedisServer
from tests.waiting import eventually

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
SERVICES = ("producer", "sender", "monitor", "gateway")
PASSWORD = secrets.token_hex(8)
# What the gateway alone may see: who its callers are, what they sent, and where they are called back.
KEYS = Keys()
OF_THE_GATEWAY = {"api_keys", "api_key_uses", "callbacks", "callback", "idempotency_key", "leases"}


def users_of(server: str) -> dict[str, str]:
    """The rules of each user in a file of deploy/."""
    lines = (DEPLOY / server / "users").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if not line.startswith("#"))


def login(user: str) -> dict[str, object]:
    return {
        "RABBITMQ_USER": user,
        "RABBITMQ_PASSWORD": PASSWORD,
        "REDIS_USER": user,
        "REDIS_PASSWORD": PASSWORD,
    }


@pytest.fixture
def users(redis_server: RedisServer) -> Iterator[Any]:
    """Makes the users in Redis. Gives the operator's client."""
    operator: Any = Redis(redis_server.host, redis_server.port, decode_responses=True)
    for user, rules in users_of("redis").items():
        operator.execute_command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *rules.split())
    operator.acl_log_reset()
    yield operator
    operator.acl_deluser(*users_of("redis"))
    operator.close()


@pytest.fixture
def rabbit_users(pipeline: Pipeline) -> None:
    """Makes the users in RabbitMQ, as the stack does."""
    for secret in ("rabbitmq", *users_of("rabbitmq")):
        (pipeline.folder / f"{secret}_password").write_text(PASSWORD)
    made = subprocess.run(
        [DEPLOY / "rabbitmq/definitions.sh", pipeline.folder, "operator", "/", pipeline.queue],
        check=True,
        capture_output=True,
    )
    (pipeline.folder / "definitions.json").write_bytes(made.stdout)
    pipeline.rabbit.ctl("import_definitions", str(pipeline.folder / "definitions.json"))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("rabbit_users")
async def test_each_service_may_do_all_that_it_does(pipeline: Pipeline, users: Any) -> None:
    """A run with retries and failures, and messages of the gateway, are settled. Neither server refuses anything."""
    pipeline.use(MAX_ATTEMPTS=2, RETRY_BACKOFF=0.1, KEEP_FAILED="true", PROVIDER_RATE=5_000, FAILURE_RATE=0.3)
    pipeline.use(MEAN_PROCESSING_TIME=0.01)
    sender = pipeline.sender(**login("sender"))
    await eventually(lambda: sender.logged("sender_started"), describe="the sender has started")
    gateway = Gateway(pipeline)
    await gateway.start(**login("gateway"))
    report = await pipeline.published("--num-messages", 500, "--run", "least", "--wait", **login("producer"))
    assert report["published"] == 500
    uuids: dict[int, str] = {}
    async with gateway.client() as http:
        await post_all(http, 100, 10, uuids)

        async def ended() -> bool:
            async with http.get(f"/sms/{uuids[99]}") as answer:
                return (await answer.json())["status"] in ("sent", "failed")

        await eventually(ended, 60)
        async with http.get("/ready") as ready:
            assert ready.status == 200
    monitor = pipeline.monitor("--once", **login("monitor"))
    assert await monitor.ended() == 0
    assert (users.acl_log(), sender.stderr, monitor.stderr) == ([], "", "")
    assert not [event for event in gateway.process.events if event["level"] in ("WARNING", "ERROR")]


@pytest.mark.parametrize(
    "command", [("CONFIG", "SET", "save", ""), ("FLUSHALL",), ("KEYS", "*"), ("ACL", "USERS")]
)
def test_no_service_may_administer_redis(command: tuple[str, ...], users: Any) -> None:
    """A service that is taken over can neither empty Redis nor change it."""
    assert not any(may(users, user, *command) for user in SERVICES)


def test_only_the_gateway_reaches_what_is_its_own(users: Any) -> None:
    """A sender reaches every other key. A new key needs a decision: a line of deploy/redis/users, or of this test."""
    no_keys = {"stack", "database", "channel"}
    names = [name for name in dir(KEYS) if not name.startswith("_") and name not in no_keys]

    def beyond(user: str) -> set[str]:
        return {name for name in names if not may(users, user, "EXISTS", key_of(getattr(KEYS, name)))}

    assert beyond("gateway") == set()
    assert beyond("sender") == OF_THE_GATEWAY


def key_of(made: Any) -> str:
    """An example of a key."""
    return made if isinstance(made, str) else str(made(*["x"] * (made.__code__.co_argcount - 1)))


def may(operator: Any, user: str, *command: str) -> bool:
    """Whether Redis lets a user do this."""
    return bool(operator.execute_command("ACL", "DRYRUN", user, *command) == "OK")

"""common/settings.py: defaults, precedence, and one clear line for each bad value."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from common.errors import UsageError
from common.settings import EnvironmentSettings, Settings, load_settings, near_misses, read_settings

COMPOSE = Path(__file__).parent.parent.parent / "docker-compose.yml"

pytestmark = pytest.mark.usefixtures("bare_environment")

# The table of the README. None: unset.
DEFAULTS = {
    "RABBITMQ_HOST": "localhost",
    "RABBITMQ_PORT": 5672,
    "RABBITMQ_USER": "guest",
    "RABBITMQ_PASSWORD": "guest",
    "RABBITMQ_VHOST": "/",
    "RABBITMQ_TLS": False,
    "RABBITMQ_CA_FILE": None,
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "REDIS_USER": None,
    "REDIS_PASSWORD": None,
    "REDIS_DB": 0,
    "REDIS_TLS": False,
    "REDIS_CA_FILE": None,
    "REDIS_SENTINELS": None,
    "REDIS_SENTINEL_MASTER": "mymaster",
    "REDIS_SENTINEL_PASSWORD": None,
    "REDIS_WAIT_REPLICAS": 0,
    "REDIS_WAIT_AOF": False,
    "STACK": "sms",
    "GATEWAY_TLS_CERT": None,
    "GATEWAY_TLS_KEY": None,
    "QUEUE_NAME": "sms_queue",
    "QUEUE_TYPE": "quorum",
    "BATCH_SIZE": 1,
    "RUN_TTL": 7,
    "MONITOR_UPDATE_INTERVAL": 5,
    "MEAN_PROCESSING_TIME": 2,
    "PROCESSING_TIME_STDDEV": None,
    "PROCESSING_TIME_DISTRIBUTION": "normal",
    "FAILURE_RATE": 0.1,
    "SEED": None,
    "SENDER_CONCURRENCY": 100,
    "SHUTDOWN_GRACE": 8,
    "MAX_ATTEMPTS": 1,
    "RETRY_BACKOFF": 1,
    "KEEP_FAILED": False,
    "PROVIDER": "simulated",
    "PROVIDER_PROFILE": None,
    "PROVIDER_RATE": None,
    "RESERVED_NUMBERS": None,
    "PROVIDER_URL": None,
    "PROVIDER_TIMEOUT": 10,
    "GATEWAY_HOST": "127.0.0.1",
    "GATEWAY_PORT": 8000,
    "GATEWAY_AUTH": True,
    "GATEWAY_API_KEY": None,
    "GATEWAY_RATE": None,
    "GATEWAY_KEY_RATE": None,
    "GATEWAY_BACKLOG": 1_000_000,
    "GATEWAY_BACKLOG_MEMORY": 0.25,
    "GATEWAY_CORS_ORIGINS": None,
    "GATEWAY_HOSTS": None,
    "GATEWAY_CONNECTIONS": 8_192,
    "GATEWAY_ADDRESS_CONNECTIONS": 4_096,
    "MESSAGE_TTL": 24,
    "MESSAGE_BYTES": None,
    "CALLBACK_SECRET": None,
    "CALLBACK_SECRET_PREVIOUS": None,
    "CALLBACK_ALLOW_PRIVATE": False,
    "CALLBACK_HTTPS_ONLY": False,
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": None,
    "LOG_LEVEL": "INFO",
    "LOG_FILE": None,
    "AUDIT_LOG": None,
}


def value_of(settings: Settings, variable: str) -> object:
    value = getattr(settings, variable.lower())
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.mark.parametrize(("variable", "default"), DEFAULTS.items())
def test_defaults(variable: str, default: object) -> None:
    """Each setting's default is the one of the README's table."""
    assert value_of(load_settings(), variable) == default


def test_no_setting_is_missing_from_the_table() -> None:
    """Whoever adds a setting states its default here (and in the README's table)."""
    assert {name.upper() for name in Settings.model_fields} <= set(DEFAULTS)


def test_the_standard_deviation_is_a_tenth_of_the_mean_unless_set() -> None:
    """PROCESSING_TIME_STDDEV follows the mean; set, even to 0, it is what it is."""
    assert load_settings(mean_processing_time=3.0).stddev_s == pytest.approx(0.3)
    assert load_settings(mean_processing_time=3.0, processing_time_stddev=0.0).stddev_s == 0


@dataclasses.dataclass(frozen=True)
class Given:
    flag: int | None
    environment: str | None
    file: str | None
    wanted: int


@pytest.mark.parametrize(
    "given_",
    [
        Given(flag=2, environment="3", file="4", wanted=2),
        Given(flag=None, environment="3", file="4", wanted=3),
        Given(flag=None, environment=None, file="4", wanted=4),
        Given(flag=None, environment=None, file=None, wanted=1),
        Given(flag=2, environment=None, file="4", wanted=2),
        Given(flag=None, environment="", file="4", wanted=4),
        Given(flag=None, environment="", file="", wanted=1),
        Given(flag=None, environment=None, file="  ", wanted=1),
    ],
    ids=str,
)
def test_precedence(given_: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flag beats the environment, the environment beats `.env`, and blank means unset at either place."""
    if given_.environment is not None:
        monkeypatch.setenv("BATCH_SIZE", given_.environment)
    if given_.file is not None:
        (tmp_path / ".env").write_text(f"BATCH_SIZE={given_.file}\n")
    assert load_settings(batch_size=given_.flag).batch_size == given_.wanted


def test_a_bad_value_that_is_overridden_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the value in force is looked at."""
    monkeypatch.setenv("BATCH_SIZE", "abc")
    assert load_settings(batch_size=5).batch_size == 5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FAILURE_RATE", "1.5"),
        ("FAILURE_RATE", "-0.1"),
        ("FAILURE_RATE", "nan"),
        ("FAILURE_RATE", "10%"),
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "10001"),
        ("BATCH_SIZE", "1.5"),
        ("BATCH_SIZE", "1\n2"),
        ("RABBITMQ_PORT", "abc"),
        ("RABBITMQ_PORT", "0"),
        ("RABBITMQ_PORT", "65536"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_DB", "-1"),
        ("RABBITMQ_TLS", "maybe"),
        ("REDIS_TLS", "2"),
        ("QUEUE_NAME", "a queue"),
        ("QUEUE_NAME", "queue\n"),
        ("QUEUE_NAME", "q" * 101),
        ("QUEUE_TYPE", "foo"),
        ("RUN_TTL", "0"),
        ("RUN_TTL", "nan"),
        ("MONITOR_UPDATE_INTERVAL", "0"),
        ("MONITOR_UPDATE_INTERVAL", "inf"),
        ("MEAN_PROCESSING_TIME", "-1"),
        ("MEAN_PROCESSING_TIME", "nan"),
        ("MEAN_PROCESSING_TIME", "inf"),
        ("PROCESSING_TIME_STDDEV", "-1"),
        ("PROCESSING_TIME_STDDEV", "nan"),
        ("PROCESSING_TIME_DISTRIBUTION", "uniform"),
        ("SEED", "-1"),
        ("SEED", "0x10"),
        ("SEED", str(2**63)),
        ("SENDER_CONCURRENCY", "0"),
        ("SHUTDOWN_GRACE", "-1"),
        ("MAX_ATTEMPTS", "0"),
        ("RETRY_BACKOFF", "0"),
        ("RETRY_BACKOFF", "nan"),
        ("KEEP_FAILED", "maybe"),
        ("PROVIDER_RATE", "0"),
        ("PROVIDER_RATE", "-1"),
        ("PROVIDER_RATE", "nan"),
        ("PROVIDER_RATE", "inf"),
        ("PROVIDER_URL", "example.org"),
        ("PROVIDER_URL", "ftp://example.org/"),
        ("PROVIDER_URL", "http://example.org:99999/"),
        ("PROVIDER_TIMEOUT", "0"),
        ("PROVIDER_TIMEOUT", "601"),
        ("PROVIDER_TIMEOUT", "nan"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_one_clear_line(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises UsageError; the line names the variable and says what is wrong, not in which library."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as caught:
        load_settings()
    line = str(caught.value)
    assert line.startswith(f"{variable}=")
    assert "; " not in line  # nothing about other settings
    assert line.isprintable()
    assert "pydantic" not in line


@pytest.mark.parametrize("variable", ["RABBITMQ_HOST", "REDIS_HOST", "GATEWAY_HOST", "METRICS_HOST"])
@pytest.mark.parametrize(
    "value",
    [
        "redis://:hush@127.0.0.1:6379/0",
        "amqps://user:hush@host/",
        "//:hush@host",
        "host/0",
        "user:hush@host",
        "https://host",
        "127.0.0.1:5672",
        "[::1]:6379",
        "host:",
        ":6379",
        "a host",
        "host?",
        "[::1",
        "[host]",
    ],
)
def test_a_host_is_no_url_and_has_no_port(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the variable; what may be a password is not in it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=rf"^{variable}=") as caught:
        load_settings()
    assert "hush" not in str(caught.value)
    assert "alue error" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("redis.example.org", "redis.example.org"),
        ("redis_1", "redis_1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        (" host ", "host"),
    ],
)
def test_a_host_is_a_name_or_an_address(value: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address may have the brackets that it has in URLs."""
    monkeypatch.setenv("REDIS_HOST", value)
    monkeypatch.setenv("RABBITMQ_HOST", f"{value},other")
    settings = load_settings()
    assert (settings.redis_host, settings.rabbitmq_host) == (host, f"{host},other")


def test_redis_has_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of hosts is for RabbitMQ."""
    monkeypatch.setenv("REDIS_HOST", "one,two")
    with pytest.raises(UsageError, match="REDIS_HOST=one,two"):
        load_settings()


def test_what_stands_in_single_quotes_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`${X}` in a password is no variable there; without quotes, and in double quotes, it is one."""
    monkeypatch.setenv("X", "x")
    (tmp_path / ".env").write_text(
        "REDIS_PASSWORD = 'a${X}b'\nRABBITMQ_PASSWORD=\"a${X}b\"\nQUEUE_NAME=a${X}b\nRABBITMQ_VHOST=it's${X}\n"
    )
    settings = load_settings()
    names = ("REDIS_PASSWORD", "RABBITMQ_PASSWORD", "QUEUE_NAME", "RABBITMQ_VHOST")
    assert [value_of(settings, name) for name in names] == ["a${X}b", "axb", "axb", "it'sx"]


@pytest.mark.parametrize(
    ("lines", "password"),
    [
        ("REDIS_PASSWORD=a${X} # ='quoted'", "ax"),
        ("REDIS_PASSWORD=\"='${X}'\"", "='x'"),
        ("REDIS_PASSWORD=='${X}'", "='x'"),
        ("REDIS_PASSWORD='${X}'\nREDIS_PASSWORD=${X}", "x"),
        ("REDIS_PASSWORD=${X}\n\n export REDIS_PASSWORD='${X}'", "${X}"),
    ],
)
def test_only_a_value_within_single_quotes_is_taken_as_it_is(
    lines: str, password: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A quote elsewhere in the line changes nothing, and the last line of a name counts."""
    monkeypatch.setenv("X", "x")
    (tmp_path / ".env").write_text(lines)
    assert value_of(load_settings(), "REDIS_PASSWORD") == password


@pytest.mark.parametrize(
    "variable", ["RABBITMQ_USER", "RABBITMQ_VHOST", "REDIS_USER", "REDIS_SENTINEL_MASTER", "REDIS_SENTINELS"]
)
def test_no_part_of_an_address_is_a_url(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors and logs quote some of them, and a URL may have a password in it."""
    monkeypatch.setenv(variable, "amqp://user:hush@host/vhost")
    with pytest.raises(UsageError, match=rf"^{variable}=.*: a URL, ") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise a password in another encoding is a traceback at the login, and a NUL one at the next file."""
    monkeypatch.setenv("RABBITMQ_PASSWORD", "caf\udce9")
    with pytest.raises(UsageError, match=r"^RABBITMQ_PASSWORD: not UTF-8"):
        load_settings()
    monkeypatch.delenv("RABBITMQ_PASSWORD")
    (tmp_path / ".env").write_text("REDIS_PASSWORD_FILE=a\0b\n")
    with pytest.raises(UsageError, match=r"^REDIS_PASSWORD_FILE: "):
        load_settings()


def test_an_env_file_that_can_not_be_read_is_one_clear_line(tmp_path: Path) -> None:
    """As it is without permission, which root always has: this file cannot be read at its beginning."""
    (tmp_path / ".env").symlink_to("/proc/self/mem")
    with pytest.raises(UsageError, match=r"^\.env: "):
        load_settings()
    assert near_misses() == []


class OwnSettings(EnvironmentSettings, env_prefix="ACME_"):
    token: SecretStr
    senders: int = 1


def test_a_provider_has_settings_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A class of its own is read from the same places, under its prefix."""
    monkeypatch.setenv("ACME_SENDERS", "7")
    (tmp_path / ".env").write_text("ACME_TOKEN=hush-hush\nACME_SENDERS=\n")
    settings = read_settings(OwnSettings)
    assert (settings.senders, settings.token.get_secret_value()) == (7, "hush-hush")


@pytest.mark.parametrize(
    "content", ['it\'s a "$ecret" #1\\', "b\n", "b\r\n", "ümlaut", " two words ", "\ufeffb"]
)
def test_a_secret_may_be_in_a_file(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`<variable>_FILE` names it, in the environment and in `.env`. It is taken as it is, but for line end and BOM."""
    (tmp_path / "secret").write_bytes(content.encode())
    (tmp_path / ".env").write_text("ACME_TOKEN_FILE=secret\nREDIS_PASSWORD=of the file\n")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "secret"))
    wanted = content.rstrip("\r\n").removeprefix("\ufeff")
    assert read_settings(OwnSettings).token.get_secret_value() == wanted
    assert value_of(load_settings(), "REDIS_PASSWORD") == wanted
    assert near_misses() == []


def test_a_variable_of_the_environment_beats_a_file_that_env_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As every variable of the environment beats `.env`."""
    (tmp_path / ".env").write_text("REDIS_PASSWORD_FILE=secret\n")
    (tmp_path / "secret").write_text("of the file")
    monkeypatch.setenv("REDIS_PASSWORD", "of the environment")
    assert value_of(load_settings(), "REDIS_PASSWORD") == "of the environment"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"No such file or directory"),
        (b"", r"the file is empty"),
        (b"\n", r"the file is empty"),
        (b"caf\xe9", r"not UTF-8"),
    ],
)
def test_a_secret_that_can_not_be_read_is_one_clear_line(
    content: bytes | None, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It names the variable and the file, and quotes nothing of its content."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv("GATEWAY_API_KEY_FILE", "secret")
    with pytest.raises(UsageError, match=rf"^GATEWAY_API_KEY_FILE=secret: {says}$"):
        load_settings()


def test_a_secret_at_two_places_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to guess which of them is in force."""
    monkeypatch.setenv("RABBITMQ_PASSWORD_FILE", "secret")
    monkeypatch.setenv("RABBITMQ_PASSWORD", "hush-hush")
    with pytest.raises(
        UsageError, match=r"^RABBITMQ_PASSWORD and RABBITMQ_PASSWORD_FILE are both set: keep one"
    ):
        load_settings()


def test_every_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each variable whose value is kept out of messages."""
    (tmp_path / "secret").write_text("long enough to be a secret")
    files = {"gateway_tls_key"}
    secrets = {n for n in Settings.model_fields if n.endswith(("password", "secret", "key"))} - files
    for name in secrets:
        monkeypatch.setenv(f"{name.upper()}_FILE", "secret")
    settings = load_settings()
    assert {value_of(settings, name.upper()) for name in secrets} == {"long enough to be a secret"}


def test_a_bad_value_of_its_own_is_one_clear_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names what is missing or wrong, and quotes no token."""
    monkeypatch.setenv("ACME_SENDERS", "many")
    with pytest.raises(UsageError, match=r"^ACME_TOKEN is not set; ACME_SENDERS=many: input should be .*$"):
        read_settings(OwnSettings)


def test_several_bad_values_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are named in the one line, so that nobody has to fix them one run at a time."""
    monkeypatch.setenv("BATCH_SIZE", "0")
    monkeypatch.setenv("FAILURE_RATE", "2")
    with pytest.raises(UsageError, match=r"^BATCH_SIZE=0: .*; FAILURE_RATE=2: .*$"):
        load_settings()


def test_an_env_file_that_is_no_utf8_is_one_clear_line(tmp_path: Path) -> None:
    """`.env` in Latin-1 raises UsageError that names the file; looking for near-misses passes over it."""
    (tmp_path / ".env").write_bytes(b"QUEUE_NAME=caf\xe9\n")
    with pytest.raises(UsageError, match=r"^\.env: not UTF-8"):
        load_settings()
    assert near_misses() == []


@pytest.mark.parametrize("variable", ["RABBITMQ_PASSWORD", "REDIS_PASSWORD"])
def test_passwords_are_never_shown(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the repr of the settings, nor in an error about another variable."""
    monkeypatch.setenv(variable, "hush-hush")
    settings = load_settings()
    assert value_of(settings, variable) == "hush-hush"
    assert "hush" not in f"{settings!r} {settings}"
    monkeypatch.setenv("BATCH_SIZE", "0")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("variable", ["RABBITMQ_PASSWORD", "REDIS_PASSWORD"])
def test_a_bad_password_is_not_quoted(variable: str) -> None:
    """An error about a password itself leaves its value out."""
    with pytest.raises(UsageError) as caught:
        load_settings(**{variable.lower(): 123456})
    assert str(caught.value).startswith(f"{variable}=***")
    assert "123456" not in str(caught.value)


def test_names_that_are_not_ours_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other programs' variables, in the environment and in `.env`, neither fail nor are warned of."""
    monkeypatch.setenv("POSTGRES_PASSWORD", "x")
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=sms\nTZ=Europe/Helsinki\n")
    assert load_settings() == load_settings()
    assert near_misses() == []


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("BATCHSIZE", "BATCH_SIZE"),
        ("RABBITMQ_HOSTS", "RABBITMQ_HOST"),
        ("FAILURE_RATES", "FAILURE_RATE"),
        ("SENDER_CONCURENCY", "SENDER_CONCURRENCY"),
        ("MEAN_PROCESING_TIME", "MEAN_PROCESSING_TIME"),
    ],
)
def test_a_near_miss_is_found(
    theirs: str, ours: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A misspelt setting is told with the right name, wherever it stands."""
    monkeypatch.setenv(theirs, "1")
    assert near_misses() == [(theirs, ours)]
    monkeypatch.delenv(theirs)
    (tmp_path / ".env").write_text(f"{theirs}=1\n")
    assert near_misses() == [(theirs, ours)]


def test_our_own_names_are_no_near_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in lower case is in force, so it is not warned of either."""
    monkeypatch.setenv("batch_size", "7")
    monkeypatch.setenv("QUEUE_TYPE", "classic")
    assert load_settings().batch_size == 7
    assert near_misses() == []


@pytest.mark.parametrize("level", ["debug", "Debug", "DEBUG"])
def test_the_log_level_in_any_case(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LOG_LEVEL=debug` is as good as `DEBUG`."""
    monkeypatch.setenv("LOG_LEVEL", level)
    assert load_settings().log_level == "DEBUG"


printable = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"]))


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(DEFAULTS)), printable)
def test_any_value_is_taken_or_named(variable: str, value: str) -> None:
    """Whatever a variable says, it is taken, or told in one line that begins with its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        try:
            load_settings()
        except UsageError as error:
            assert str(error).startswith(f"{variable}=")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 10_000), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_values_within_the_limits_are_taken_as_they_are(batch_size: int, rate: float, seed: int) -> None:
    """From the text in the environment to the number in the settings nothing changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_SIZE", str(batch_size))
        patch.setenv("FAILURE_RATE", repr(rate))
        patch.setenv("SEED", str(seed))
        settings = load_settings()
    assert (settings.batch_size, settings.failure_rate, settings.seed) == (batch_size, rate, seed)


@pytest.mark.parametrize("variable", ["RABBITMQ_PORT", "MESSAGE_TTL"])
def test_a_bad_value_is_said(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the variable and the value."""
    monkeypatch.setenv(variable, "much-too-much")
    with pytest.raises(UsageError, match=f"{variable}=much-too-much"):
        load_settings()


@pytest.mark.parametrize(
    ("setting", "provider", "taken"),
    [
        (None, "simulated", True),
        (None, "http", False),
        (None, "ours", False),
        (True, "http", True),
        (False, "simulated", False),
    ],
)
def test_reserved_numbers_are_taken_where_nothing_is_sent(
    setting: bool | None, provider: str, taken: bool
) -> None:
    """Unless it is set."""
    settings = load_settings(reserved_numbers=setting, provider=provider)
    assert settings.takes_reserved_numbers == taken


def test_reserved_numbers_are_off_in_the_stack() -> None:
    """Unless .env says otherwise."""
    settings = msgspec.yaml.decode(COMPOSE.read_bytes())["x-service"]["environment"]
    assert settings["RESERVED_NUMBERS"] == "${RESERVED_NUMBERS:-false}"

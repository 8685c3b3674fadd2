"""The settings of the environment and of `.env`: each with its default, its limits and its meaning.

A flag beats the environment, the environment beats `.env`; blank means unset. Unknown names are
ignored, but a warning is logged for a misspelt setting.
"""

import difflib
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from common.errors import UsageError
from common.hosts import Address, address_of, host_of
from common.messages import MAX_BATCH_MESSAGES

ENV_FILE = ".env"

SENTINEL_PORT = 26379

S = TypeVar("S", bound="EnvironmentSettings")

Host = Annotated[str, AfterValidator(host_of)]
Hosts = Annotated[str, AfterValidator(lambda hosts: ",".join(map(host_of, hosts.split(","))))]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


def _no_url(text: str) -> str:
    """The text. Raises ValueError for a URL, which may carry a password that errors and logs would quote."""
    if "://" in text:
        raise ValueError("a URL, but its parts have settings of their own")
    return text


NoUrl = Annotated[str, AfterValidator(_no_url)]


def _addresses(sentinels: str) -> list[Address]:
    return [address_of(sentinel, SENTINEL_PORT) for sentinel in sentinels.split(",")]


def _checked_sentinels(sentinels: str) -> str:
    return ",".join(map(str, _addresses(sentinels)))


class QueueType(StrEnum):
    """RabbitMQ's queue types that the lanes can have."""

    QUORUM = "quorum"
    CLASSIC = "classic"


class Distribution(StrEnum):
    """How the simulated processing time is spread around its mean."""

    NORMAL = "normal"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"
    CONSTANT = "constant"


class LogLevel(StrEnum):
    """Python's log levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class EnvironmentSettings(BaseSettings):
    """Settings from the environment and `.env`, one field each, which `read_settings` reads.

    The variable's name is the field's in upper case, after `env_prefix` if the class has one.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, the environment, and `.env` if it is to be read."""
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        env_file = _EnvFile(settings_cls, dotenv_settings.env_file, "utf-8")
        for source in (env_settings, env_file):
            _check_text(settings_cls, source.env_vars)
            source.env_vars = {**source.env_vars, **_secrets_in_files(settings_cls, source.env_vars)}
        return init_settings, env_settings, env_file


class _EnvFile(DotEnvSettingsSource):
    """`.env`, in which `${NAME}` stands for a variable, except within single quotes."""

    @staticmethod
    def _static_read_env_file(file_path: Path, **how: Any) -> Mapping[str, str | None]:
        found = dict(DotEnvSettingsSource._static_read_env_file(file_path, **how))
        quoted: dict[str, str | None] = {}
        with file_path.open(encoding=how["encoding"]) as lines:
            for line in parse_stream(lines):
                if line.key is not None:
                    name = line.key if how["case_sensitive"] else line.key.lower()
                    quoted.pop(name, None)  # the last line of a name counts
                    if re.match(r"[^=]*=\s*'", line.original.string):
                        quoted[name] = line.value
        return found | quoted


def _check_text(kind: type[BaseSettings], found: Mapping[str, str | None]) -> None:
    """Raises UsageError for a setting that is no text in UTF-8: nothing could be written with it later."""
    prefix = kind.model_config.get("env_prefix", "")
    for field in kind.model_fields:
        for variable in (f"{prefix}{field}", f"{prefix}{field}_file"):
            value = found.get(variable.lower()) or ""
            if "\0" in value or not _is_encodable(value):
                raise UsageError(f"{variable.upper()}: not UTF-8, or with a NUL character")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the environment had other bytes, and Python keeps them as surrogates
        return False
    return True


def _secrets(kind: type[BaseSettings]) -> list[str]:
    """The variables of a class that are secrets. Each may instead be in the file that `<variable>_FILE` names."""
    prefix = kind.model_config.get("env_prefix", "")
    fields = kind.model_fields.items()
    return [f"{prefix}{n}".upper() for n, f in fields if SecretStr in (f.annotation, *get_args(f.annotation))]


def _secrets_in_files(kind: type[BaseSettings], found: Mapping[str, str | None]) -> dict[str, str]:
    """The secrets whose files one source names, by variable in lower case. Raises UsageError."""
    secrets = {}
    for variable in _secrets(kind):
        name = variable.lower()
        if path := found.get(f"{name}_file"):
            if found.get(name):
                raise UsageError(f"{variable} and {variable}_FILE are both set: keep one of them")
            secrets[name] = _secret_in(Path(path), f"{variable}_FILE={path}")
    return secrets


def _secret_in(file: Path, where: str) -> str:
    """The content of a file, without its last line end. Raises UsageError."""
    try:
        secret = file.read_text("utf-8-sig")  # some editors put a byte order mark first
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not UTF-8") from None
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise UsageError(f"{where}: the file is empty")
    return secret


class Settings(EnvironmentSettings):
    """Every setting of the services."""

    rabbitmq_host: Hosts = Field(
        "localhost", description="broker's host; commas separate the nodes of a cluster"
    )
    rabbitmq_port: Port = 5672
    rabbitmq_user: NoUrl = "guest"
    rabbitmq_password: SecretStr = SecretStr("guest")
    rabbitmq_vhost: NoUrl = "/"
    rabbitmq_tls: bool = False
    rabbitmq_ca_file: Path | None = None

    redis_host: Host = "localhost"
    redis_port: Port = 6379
    redis_user: NoUrl | None = None
    redis_password: SecretStr | None = None
    redis_db: Annotated[int, Field(ge=0)] = 0
    redis_tls: bool = False
    redis_ca_file: Path | None = None
    redis_sentinels: Annotated[str, AfterValidator(_checked_sentinels)] | None = Field(
        None, description="host:port of each Sentinel, separated by commas; in place of REDIS_HOST"
    )
    redis_sentinel_master: NoUrl = Field("mymaster", description="the Sentinels' name of the primary")
    redis_sentinel_password: SecretStr | None = None
    redis_wait_replicas: Annotated[
        int, Field(ge=0, le=100, description="replicas that must have a write before it counts")
    ] = 0
    redis_wait_aof: bool = Field(False, description="whether they must have it on disk (Redis 7.2)")

    stack: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")] = "sms"
    queue_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        default_factory=lambda data: f"{data.get('stack', 'sms')}_queue", description="STACK_queue unless set"
    )
    queue_type: QueueType = QueueType.QUORUM
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_MESSAGES)] = 1
    run_ttl: Annotated[float, Field(gt=0, le=3650, description="days")] = 7

    monitor_update_interval: Annotated[float, Field(gt=0, le=86_400, description="seconds")] = 5
    mean_processing_time: Seconds = 2
    processing_time_stddev: Seconds | None = None
    processing_time_distribution: Distribution = Distribution.NORMAL
    failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    sender_concurrency: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    shutdown_grace: Seconds = 8
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    retry_backoff: Annotated[float, Field(gt=0, le=512, description="seconds")] = 1
    keep_failed: bool = False
    provider: str = Field("simulated", description="a built-in provider, or one of an installed package")
    provider_profile: str | None = Field(
        None, description="a profile's name or YAML file, in place of MEAN_PROCESSING_TIME to FAILURE_RATE"
    )
    provider_rate: (
        Annotated[float, Field(gt=0, le=1e9, description="messages/s, over all senders")] | None
    ) = None
    provider_url: HttpUrl | None = None
    provider_timeout: Annotated[float, Field(gt=0, le=600, description="seconds")] = 10
    reserved_numbers: bool | None = Field(
        None,
        description="whether numbers reserved for fiction are accepted; unless set, if the provider is simulated",
    )

    gateway_host: Host = "127.0.0.1"
    gateway_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    gateway_auth: bool = True
    gateway_api_key: SecretStr | None = None
    gateway_rate: Annotated[float, Field(gt=0, le=1e9, description="messages/s, of all keys")] | None = None
    gateway_key_rate: Annotated[float, Field(gt=0, le=1e9, description="messages/s, of one key")] | None = (
        None
    )
    gateway_connections: Annotated[
        int, Field(ge=10, le=1_000_000, description="open connections, in all")
    ] = 8_192
    gateway_address_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="open connections of one client address")
    ] = 4_096
    gateway_backlog: Annotated[
        int, Field(ge=1, le=100_000_000, description="messages that may wait for RabbitMQ, of all gateways")
    ] = 1_000_000
    gateway_backlog_memory: Annotated[
        float, Field(gt=0, le=1, description="the share of Redis's maxmemory that they may take")
    ] = 0.25
    gateway_cors_origins: str | None = Field(None, description="origins, separated by commas")
    gateway_tls_cert: Path | None = None
    gateway_tls_key: Path | None = None
    gateway_hosts: str | None = Field(None, description="host names it answers to, separated by commas")
    message_ttl: Annotated[float, Field(gt=0, le=8760, description="hours")] = 24
    message_bytes: (
        Annotated[int, Field(ge=0, le=2**50, description="bytes that sent messages may take meanwhile")]
        | None
    ) = None
    callback_secret: SecretStr | None = None
    callback_secret_previous: SecretStr | None = Field(
        None, description="signs as well, while receivers change to CALLBACK_SECRET"
    )
    callback_allow_private: bool = False
    callback_https_only: bool = False
    metrics_host: Host = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None

    log_level: LogLevel = LogLevel.INFO
    log_file: Path | None = None
    audit_log: Path | None = Field(None, description="a file, or - for stdout")

    @model_validator(mode="before")
    @classmethod
    def _log_level_in_any_case(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("log_level"), str):
            values["log_level"] = values["log_level"].upper()
        return values

    @property
    def takes_reserved_numbers(self) -> bool:
        """Whether numbers reserved for fiction are accepted: unless set, where nothing is really sent."""
        return self.provider == "simulated" if self.reserved_numbers is None else self.reserved_numbers

    @property
    def sentinels(self) -> list[Address]:
        """The addresses of the Sentinels; none unless set."""
        return _addresses(self.redis_sentinels) if self.redis_sentinels else []

    @property
    def stddev_s(self) -> float:
        """Standard deviation of the processing time in seconds: a tenth of the mean unless set."""
        if self.processing_time_stddev is None:
            return self.mean_processing_time / 10
        return self.processing_time_stddev


def load_settings(**flags: Any) -> Settings:
    """The settings in force. A flag that is None is ignored. Raises UsageError that names the variable."""
    return read_settings(Settings, **flags)


def read_settings(kind: type[S], **flags: Any) -> S:
    """The settings of a class. A flag that is None is ignored. Raises UsageError that names the variable."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return kind(_env_file=ENV_FILE, **given)
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        # QUEUE_NAME has a default that is made of the other settings. Without them pydantic adds an error for it.
        errors = [dict(e) for e in error.errors() if e["type"] != "default_factory_not_called"]
        raise UsageError("; ".join(_sentence(e, prefix) for e in errors)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{ENV_FILE}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{ENV_FILE}: {error.strerror}") from None


def _sentence(error: dict[str, Any], prefix: str) -> str:
    """One clear clause on one bad value; a secret's value is left out."""
    if not error["loc"]:
        return str(error["ctx"]["error"])  # about several settings: its input is all of them, passwords too
    name = f"{prefix}{error['loc'][0]}".upper()
    if error["type"] == "missing":
        return f"{name} is not set"
    value = str(error["input"])
    if name.endswith(("PASSWORD", "SECRET", "TOKEN", "KEY")) or "@" in value or "://" in value:
        value = "***"  # a URL may carry a password
    if not value.isprintable():
        value = repr(value)  # a line end in it would make two lines of this
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}={value}: {message[:1].lower()}{message[1:]}"


def near_misses() -> list[tuple[str, str]]:
    """Names in the environment and `.env` that look like a misspelt setting of ours: (theirs, ours)."""
    ours = {name.upper() for name in Settings.model_fields} | {f"{name}_FILE" for name in _secrets(Settings)}
    try:
        in_file = set(dotenv_values(ENV_FILE))
    except (UnicodeDecodeError, OSError):
        in_file = set()
    found = []
    for name in sorted(set(os.environ) | in_file):
        if name.upper() in ours:
            continue  # in any case it is in force
        close = difflib.get_close_matches(name.upper(), ours, n=1, cutoff=0.88)
        if close:
            found.append((name, close[0]))
    return found

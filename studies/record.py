"""What the figures were measured on, and with which versions."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import redis

from studies.machine import machine
from tests.servers import RabbitServer, RedisServer

__all__ = ["PACKAGES", "installed", "machine", "versions"]

PACKAGES = ("pika", "redis", "hiredis", "uvloop", "numpy", "msgspec")


def versions(
    rabbit: RabbitServer, redis_server: RedisServer, packages: Iterable[str] = PACKAGES
) -> dict[str, str]:
    """Of Python, the servers, and the packages that matter for speed; those not installed are left out."""
    with redis.Redis(redis_server.host, redis_server.port) as client:
        redis_version = str(client.info("server")["redis_version"])
    return {
        "python": platform.python_version(),
        "rabbitmq": rabbit.ctl("version").strip(),
        "redis_server": redis_version,
        **{package: number for package in packages if (number := installed(package))},
    }


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

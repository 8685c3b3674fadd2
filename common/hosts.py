"""Hosts and addresses in settings."""

import ipaddress
import re
from typing import NamedTuple

_NAME = re.compile(r"[\w.-]+")
_WITH_PORT = re.compile(r"(?P<host>\[[^]]*\]|[^:]*):(?P<port>\d{1,5})")


class Address(NamedTuple):
    """A host and a port.

    Attributes:
        host: A host name or an IP address.
        port: The port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_of(text: str) -> str:
    """A host name, or an IP address without the brackets of a URL. Raises ValueError."""
    host = text.strip()
    if not host:
        raise ValueError("an empty host name")
    if "/" in host or "@" in host:
        raise ValueError(
            "a URL, but only a host belongs here: port, user and password have their own settings"
        )
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if _is_ip(bare):
        return bare
    if ":" in host:
        raise ValueError("only a host belongs here: the port has its own setting")
    if not _NAME.fullmatch(host):
        raise ValueError("not a host name")
    return host


def address_of(text: str, default_port: int) -> Address:
    """A host, with or without a port after a colon. Raises ValueError."""
    found = _WITH_PORT.fullmatch(text.strip())
    if found is None:
        return Address(host_of(text), default_port)
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"no port {port}")
    return Address(host_of(found["host"]), port)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

"""Decides which addresses callbacks may go to: those of the public internet (against server-side request forgery).

A URL is checked twice. When a client sends it, its text is checked, so that the client gets an error. At delivery, the
address of each socket is checked just before the socket is connected. This covers every spelling and every name server,
and names that change their address between checks (DNS rebinding).
"""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from ipaddress import ip_address as parse_address
from typing import Any

from yarl import URL

IPAddress = IPv4Address | IPv6Address

MAX_URL_LENGTH = 2_000
PRIVATE = "callbacks go to public addresses only (CALLBACK_ALLOW_PRIVATE=true allows others, for tests)"

# IANA's special-purpose registries. `is_global` of ipaddress differs between versions of Python.
_RESERVED_V4 = [
    IPv4Network("0.0.0.0/8"),  # this network
    IPv4Network("10.0.0.0/8"),  # private
    IPv4Network("100.64.0.0/10"),  # carrier-grade NAT
    IPv4Network("127.0.0.0/8"),  # loopback
    IPv4Network("168.63.129.16/32"),  # Azure's platform, reachable from inside a machine only
    IPv4Network("169.254.0.0/16"),  # link-local; clouds serve credentials there
    IPv4Network("172.16.0.0/12"),  # private
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.0.2.0/24"),  # documentation
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("192.168.0.0/16"),  # private
    IPv4Network("198.18.0.0/15"),  # benchmarks
    IPv4Network("198.51.100.0/24"),  # documentation
    IPv4Network("203.0.113.0/24"),  # documentation
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, and broadcast
]
# Public IPv6 addresses are in this network, except for those in the networks below.
_PUBLIC_V6 = IPv6Network("2000::/3")
_RESERVED_V6 = [
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, which embeds an IPv4 address
    IPv6Network("3fff::/20"),  # documentation
]
_NAT64 = IPv6Network("64:ff9b::/96")

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
_AUTHORITY = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_PLAIN = re.compile(r"[!-\[\]-~]*")  # printable ASCII without spaces and backslashes


class AddressRefusedError(OSError):
    """A connection to an address that is not allowed."""


def is_public(address: IPAddress) -> bool:
    """Returns whether an address is public. An IPv6 address that embeds an IPv4 address is as public as that."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _RESERVED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:  # networks without IPv4 reach IPv4 through it
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _RESERVED_V6)


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which URLs callbacks may go to.

    Attributes:
        allow_private: Whether addresses may be private (CALLBACK_ALLOW_PRIVATE).
        https_only: Whether they must be encrypted on their way (CALLBACK_HTTPS_ONLY).
    """

    allow_private: bool = False
    https_only: bool = False


def url_error(text: str, rules: AddressRules) -> str | None:
    """Returns what is wrong with a callback URL, as far as its text shows; None if nothing is. Resolves no names."""
    if len(text) > MAX_URL_LENGTH:
        return f"is longer than {MAX_URL_LENGTH} characters"
    if not _PLAIN.fullmatch(text):  # parsers treat such characters differently
        return "must be plain ASCII with no spaces and no backslash (an international name as xn--…, the rest as %XX)"
    authority = _AUTHORITY.match(text)
    if authority is None:
        return f"must begin with {'' if rules.https_only else 'http:// or '}https://"
    if rules.https_only and not text.lower().startswith("https:"):
        return "must begin with https:// (CALLBACK_HTTPS_ONLY)"
    if "@" in authority[1]:
        return "must have no user name or password in it"
    return _authority_error(text, authority[1].startswith("["), rules.allow_private)


def _authority_error(text: str, is_ipv6: bool, allow_private: bool) -> str | None:
    try:
        url = URL(text)
    except ValueError:
        return "is no valid URL: look at host and port"
    if url.port is None or not 1 <= url.port <= 65535:
        return "must have a port from 1 to 65535, if it has one"
    host = (url.raw_host or "").lower()
    return _ipv6_error(host, allow_private) if is_ipv6 else _host_error(host, allow_private)


def _ipv6_error(host: str, allow_private: bool) -> str | None:
    try:
        return _address_error(IPv6Address(host), allow_private)
    except ValueError:
        return "has no valid IPv6 address in its brackets"


def _host_error(host: str, allow_private: bool) -> str | None:
    name = host.rstrip(".")
    if not _NAME.fullmatch(host):
        return "must have a host name or an address"
    if _NUMERIC.fullmatch(name):
        # Resolvers take a name that ends in a number for an address, in spellings such as 0x7f.1 and 2130706433.
        try:
            return _address_error(IPv4Address(host), allow_private)
        except ValueError:
            return "must spell an IPv4 address as four decimal numbers"
    is_local = name == "localhost" or name.endswith(".localhost")
    return f"names this machine: {PRIVATE}" if is_local and not allow_private else None


def _address_error(address: IPAddress, allow_private: bool) -> str | None:
    return None if allow_private or is_public(address) else f"has an address that is not public: {PRIVATE}"


def guarded_socket(allows: Callable[[IPAddress], bool]) -> Callable[[Any], socket.socket]:
    """Returns a factory of sockets to allowed addresses (`TCPConnector(socket_factory=…)`).

    aiohttp passes the address that it connects the socket to next, from the resolver or from the URL: an address in a
    URL is not resolved. The factory also refuses text that is not an address, which the system would resolve again.
    """

    def create(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        if not _is_allowed(host, allows):
            raise AddressRefusedError("address refused")
        return socket.socket(family, kind, protocol)

    return create


def _is_allowed(host: str, allows: Callable[[IPAddress], bool]) -> bool:
    try:
        return allows(parse_address(host))
    except ValueError:
        return False

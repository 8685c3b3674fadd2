"""Which addresses a callback may go to: those of the public internet (against server-side request forgery).

A URL is looked at twice. When it comes, what can be told from its text is refused, so that the caller hears of it. When
it is delivered to, each address is judged at the last moment, as the socket to it is made: whichever spelling, name
server or redirect it came from, and however often a name changes its address (DNS rebinding).
"""

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from yarl import URL

LONGEST_URL = 2_000
PRIVATE = "callbacks go to public addresses only (CALLBACK_ALLOW_PRIVATE=true allows others, for tests)"

# IANA's special-purpose registries: what is no place on the public internet.
_CLOSED_V4 = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and where clouds tell a machine its secrets
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
# IPv6 is public within 2000::/3 only, and there not in these.
_PUBLIC_V6 = ip_network("2000::/3")
_CLOSED_V6 = [
    ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise, and nobody's any more
        "3fff::/20",  # documentation
    )
]
_NAT64 = ip_network("64:ff9b::/96")

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
_AUTHORITY = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class AddressRefusedError(OSError):
    """A connection to an address that is not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public internet; of IPv4 in IPv6's clothes, whether the IPv4 address is."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:  # how a network without IPv4 reaches all of it
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _CLOSED_V6)


def url_error(text: str, allow_private: bool) -> str | None:
    """What is wrong with a callback URL, as far as its text tells; None for nothing. Asks no name server."""
    if len(text) > LONGEST_URL:
        return f"is longer than {LONGEST_URL} characters"
    # Parsers differ in what they do with these, and we want none to differ.
    if not all("!" <= character <= "~" for character in text) or "\\" in text:
        return "must be plain ASCII with no spaces and no backslash (an international name as xn--…, the rest as %XX)"
    authority = _AUTHORITY.match(text)
    if authority is None:
        return "must begin with http:// or https://"
    if "@" in authority[1]:
        return "must have no user name or password in it"
    try:
        url = URL(text)
    except ValueError:
        return "is no valid URL: look at host and port"
    if url.port is None or not 1 <= url.port <= 65535:
        return "must have a port from 1 to 65535, if it has one"
    return _host_error((url.raw_host or "").lower(), authority[1].startswith("["), allow_private)


def _host_error(host: str, bracketed: bool, allow_private: bool) -> str | None:
    if bracketed:
        try:
            literal: IPv4Address | IPv6Address = IPv6Address(host)
        except ValueError:
            return "has no valid IPv6 address in its brackets"
    elif not _NAME.fullmatch(host):
        return "must have a host name or an address"
    elif _NUMERIC.fullmatch(host.rstrip(".")):
        # Where a name ends in a number it is taken for an address, in spellings that nobody needs: 0x7f.1, 2130706433.
        try:
            literal = IPv4Address(host)
        except ValueError:
            return "must spell an IPv4 address as four decimal numbers"
    else:
        name = host.rstrip(".")
        local = name == "localhost" or name.endswith(".localhost")
        return f"names this machine: {PRIVATE}" if local and not allow_private else None
    return None if allow_private or is_public(literal) else f"has an address that is not public: {PRIVATE}"


def guarded_socket(allows: Callable[[IPv4Address | IPv6Address], bool]) -> Callable[[Any], socket.socket]:
    """What makes aiohttp's sockets (`TCPConnector(socket_factory=…)`), for addresses that are allowed only.

    aiohttp hands it the address that it connects the socket to next, be it from the resolver or from the URL; addresses
    in a URL pass no resolver. What is no address by now would be looked up once more, so it is refused as well.
    """

    def make(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        try:
            allowed = allows(ip_address(host))
        except ValueError:
            allowed = False
        if not allowed:
            raise AddressRefusedError("address refused")
        return socket.socket(family, kind, protocol)

    return make

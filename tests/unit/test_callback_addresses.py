"""gateway/callbacks/address.py: where a callback may go, and every way around it that we know of."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.callbacks.address import AddressRefusedError, guarded_socket, is_public, url_error

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1"),
    *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1"),
    *(
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
    ),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *(
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
    ),
    *("::ffff:0:8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "100::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd12:3456:789a::1", "fe80::1", "fe80::1%eth0"),
    *("fec0::1", "ff02::1", "ff0e::1", "4000::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *(
        "2606:4700:4700::1111",
        "2a00:1450:4001::200e",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    """Private, loopback, link-local, carrier-grade NAT, multicast, reserved, and IPv4 of those dressed as IPv6."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    """Up to the very edges of what is not."""
    assert is_public(ip_address(address))


# A zone has a spelling of its own in URLs, see the hostile ones.
@pytest.mark.parametrize("address", [a for a in PRIVATE + PUBLIC if "%" not in a])
def test_an_address_in_a_url_is_judged_when_it_comes(address: str) -> None:
    """With or without a port; and with CALLBACK_ALLOW_PRIVATE all pass."""
    host = f"[{address}]" if ":" in address else address
    for url in (f"http://{host}/hook", f"https://{host}:8443", f"HTTP://{host.upper()}/?a=b"):
        what = url_error(url, allow_private=False)
        assert (what is None) == (address in PUBLIC), what
        assert what is None or "CALLBACK_ALLOW_PRIVATE" in what
        assert url_error(url, allow_private=True) is None


NOT_ASCII = "must be plain ASCII"
SCHEME = "must begin with http"
USER = "must have no user name"
NUMERIC = "must spell an IPv4 address as four decimal numbers"
HOST = "must have a host name"
PORT = "must have a port"
INVALID = "is no valid URL"
BRACKETS = "has no valid IPv6 address"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        # Other schemes, and none.
        *(
            (url, SCHEME)
            for url in ("", "example.com", "//example.com/", "/hook", "http:example.com", "http:/x/y")
        ),
        *(
            (url, SCHEME)
            for url in ("ftp://example.com/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_PING")
        ),
        *(
            (url, SCHEME)
            for url in ("javascript:alert(1)", "data:,x", "httpx://example.com/", "ws://example.com/")
        ),
        # Who is meant to be the host?
        *(
            (url, USER)
            for url in ("http://user:pass@example.com/", "http://example.com@127.0.0.1/", "http://@b.c/")
        ),
        *(
            (url, USER)
            for url in ("http://:@example.com/", "http://a@b@example.com/", "http://127.0.0.1:80@b.c/")
        ),
        *((url, NOT_ASCII) for url in ("http://example.com\\@127.0.0.1/", "http://127.0.0.1\\.example.com/")),
        *((url, NOT_ASCII) for url in ("http://a b/", " http://example.com/", "http://exa\tmple.com/")),
        *(
            (url, NOT_ASCII)
            for url in ("http://example.com/\r\nX-Evil: 1", "http://example.com/\0", "http://b\n.c/")
        ),
        # Digits and dots that become ASCII on the way.
        *(
            (url, NOT_ASCII)
            for url in ("http://\uff11\uff12\uff17.0.0.1/", "http://①②⑦.0.0.1/", "http://127。0。0。1/")
        ),
        *((url, NOT_ASCII) for url in ("http://ⓛocalhost/", "http://münchen.example/")),
        # Spellings of 127.0.0.1 and 0.0.0.0 that a system's resolver understands.
        *((url, NUMERIC) for url in ("http://2130706433/", "http://0x7f000001/", "http://017700000001/")),
        *(
            (url, NUMERIC)
            for url in ("http://127.1/", "http://127.0.1/", "http://0x7f.1/", "http://0x7f.0.0.1/")
        ),
        *(
            (url, NUMERIC)
            for url in ("http://0177.0.0.1/", "http://127.0.0.01/", "http://127.0.0.0x1/", "http://0/")
        ),
        *((url, NUMERIC) for url in ("http://127.0.0.1./", "http://0x/", "http://256.256.256.256/")),
        *((url, NUMERIC) for url in ("http://1.2.3.4.5/", "http://127.0.0.1.0x/", "http://99999999999/")),
        *((url, HOST) for url in ("http:///hook", "http://", "http://?a=b", "http://.../", "http://a..b/")),
        *((url, HOST) for url in ("http://-a.example/", "http://a;b/", "http://127.0.0.1../", "http://*/")),
        *(
            (url, HOST)
            for url in ("http://%31%32%37.0.0.1/", "http://local%68ost/", "http://ex%00ample.com/")
        ),
        *((url, HOST) for url in (f"http://{'a' * 64}.com/", f"http://{'a.' * 127}com/")),
        # Ports.
        *((url, PORT) for url in ("http://example.com:0/", "https://example.com:00000/")),
        *(
            (url, INVALID)
            for url in ("http://example.com:65536/", "http://example.com:x/", "http://example.com:-1/")
        ),
        # IPv6.
        *((url, INVALID) for url in ("http://[::1/", "http://::1/", "http://[::1]x/")),
        *((url, BRACKETS) for url in ("http://[v1.x]/", "http://[::g]/")),
        *((url, "not public") for url in ("http://[::1]/", "http://[::]:80/", "http://[0:0:0:0:0:0:0:1]/")),
        *((url, "not public") for url in ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/")),
        *((url, "not public") for url in ("http://[::FFFF:0a00:0001]/", "http://[fe80::1%25eth0]/")),
        # This machine by name.
        *(
            (url, "names this machine")
            for url in ("http://localhost/", "http://LOCALHOST:6379/", "http://localhost./")
        ),
        *((url, "names this machine") for url in ("http://a.localhost/", "https://a.b.localhost.:1/")),
        ("http://example.com/" + "a" * 2000, "is longer than 2000 characters"),
    ],
)
def test_hostile_and_mistaken_urls(url: str, what: str) -> None:
    """Each is refused when it comes, for its own reason, whether it would have worked or not."""
    found = url_error(url, allow_private=False)
    assert found is not None
    assert what in found
    assert url not in found or len(url) < 3


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com", "https://example.com/", "HTTPS://EXAMPLE.COM:8443/a/b?c=d&e=%20#f"),
        *(
            "http://example.com./",
            "http://a_b.example/",
            "http://xn--mnchen-3ya.example/",
            "http://1and1.com/",
        ),
        *(
            "http://example.com:1/",
            "http://example.com:65535/",
            "http://example.com:/",
            "http://b/@x?y=http://c@d/",
        ),
        *("http://internal/", "http://notlocalhost/", "http://localhost.example/", "http://0x7f.example/"),
    ],
)
def test_urls_that_are_right_as_far_as_their_text_tells(url: str) -> None:
    """What a name leads to is judged when it is delivered to."""
    assert url_error(url, allow_private=False) is None


def test_this_machine_by_name_where_private_addresses_are_allowed() -> None:
    """As a developer's own receiver is."""
    assert url_error("http://localhost:9000/hook", allow_private=True) is None
    assert url_error("http://0177.0.0.1/", allow_private=True) is not None


def info(host: str, family: int = socket.AF_INET) -> tuple[int, int, int, str, tuple[Any, ...]]:
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 80)


@pytest.mark.parametrize("host", [*PRIVATE, "127.1", "0x7f.1", "2130706433", "localhost", "example.com", ""])
def test_no_socket_is_made_to_what_is_not_public(host: str) -> None:
    """Nor to what is no address yet, and would be looked up once more on the way."""
    with pytest.raises(AddressRefusedError):
        guarded_socket(is_public)(info(host))


@pytest.mark.parametrize("host", PUBLIC)
def test_sockets_to_public_addresses(host: str) -> None:
    """Of the family that is asked for; it is not connected yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with guarded_socket(is_public)(info(host, family)) as made:
        assert (made.family, made.type) == (family, socket.SOCK_STREAM)

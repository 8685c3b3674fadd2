"""gateway/callbacks/address.py: where a callback may go, and the known ways around it."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.callbacks.address import AddressRefusedError, AddressRules, guarded_socket, is_public, url_error


def words(text: str) -> list[str]:
    return text.split()


PRIVATE = words("""
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254
    168.63.129.16
    172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:8.8.8.8
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
    2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd12:3456:789a::1 fe80::1
    fe80::1%eth0 fec0::1 ff02::1 ff0e::1 4000::1
""")
PUBLIC = words("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
    172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255
    2606:4700:4700::1111 2a00:1450:4001::200e 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8
""")


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    """Private, loopback, link-local, carrier-grade NAT, multicast and reserved ones, and their forms in IPv6."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """Up to the edges of the reserved networks."""
    assert is_public(ip_address(address))


# A zone has another spelling in URLs, see the hostile ones.
@pytest.mark.parametrize("address", [a for a in PRIVATE + PUBLIC if "%" not in a])
def test_an_address_in_a_url_is_checked(address: str) -> None:
    """With and without a port. CALLBACK_ALLOW_PRIVATE allows all of them."""
    host = f"[{address}]" if ":" in address else address
    for url in (f"http://{host}/hook", f"https://{host}:8443", f"HTTP://{host.upper()}/?a=b"):
        what = url_error(url, AddressRules(allow_private=False))
        assert (what is None) == (address in PUBLIC), what
        assert what is None or "CALLBACK_ALLOW_PRIVATE" in what
        assert url_error(url, AddressRules(allow_private=True)) is None


HOSTILE = {
    # No scheme, or another one.
    "must begin with http": [
        "",
        *words("""
        example.com //example.com/ /hook http:example.com http:/x/y ftp://example.com/ file:///etc/passwd
        gopher://127.0.0.1:6379/_PING javascript:alert(1) data:,x httpx://example.com/ ws://example.com/
    """),
    ],
    # Parsers disagree about the host.
    "must have no user name": words("""
        http://user:pass@example.com/ http://example.com@127.0.0.1/ http://@b.c/ http://:@example.com/
        http://a@b@example.com/ http://127.0.0.1:80@b.c/
    """),
    # Characters that end the host or the request early, and those that become ASCII on the way.
    "must be plain ASCII": [
        *(
            "http://example.com\\@127.0.0.1/",
            "http://127.0.0.1\\.example.com/",
            "http://a b/",
            "http://b\n.c/",
        ),
        *(
            " http://example.com/",
            "http://exa\tmple.com/",
            "http://example.com/\r\nX-Evil: 1",
            "http://a.c/\0",
        ),
        *(
            "http://\uff11\uff12\uff17.0.0.1/",
            "http://①②⑦.0.0.1/",
            "http://127。0。0。1/",
            "http://ⓛocalhost/",
        ),
        "http://münchen.example/",
    ],
    # Spellings of addresses that a system's resolver understands.
    "must spell an IPv4 address as four decimal numbers": words("""
        http://2130706433/ http://0x7f000001/ http://017700000001/ http://127.1/ http://127.0.1/ http://0x7f.1/
        http://0x7f.0.0.1/ http://0177.0.0.1/ http://127.0.0.01/ http://127.0.0.0x1/ http://0/ http://127.0.0.1./
        http://0x/ http://256.256.256.256/ http://1.2.3.4.5/ http://127.0.0.1.0x/ http://99999999999/
    """),
    "must have a host name": words(f"""
        http:///hook http:// http://?a=b http://.../ http://a..b/ http://-a.example/ http://a;b/ http://127.0.0.1../
        http://*/ http://%31%32%37.0.0.1/ http://local%68ost/ http://ex%00ample.com/ http://{"a" * 64}.com/
        http://{"a." * 127}com/
    """),
    "must have a port": ["http://example.com:0/", "https://example.com:00000/"],
    "is no valid URL": words("""
        http://example.com:65536/ http://example.com:x/ http://example.com:-1/ http://[::1/ http://::1/ http://[::1]x/
    """),
    "has no valid IPv6 address": ["http://[v1.x]/", "http://[::g]/"],
    "not public": words("""
        http://[::1]/ http://[::]:80/ http://[0:0:0:0:0:0:0:1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/
        http://[::FFFF:0a00:0001]/ http://[fe80::1%25eth0]/
    """),
    "names this machine": words("""
        http://localhost/ http://LOCALHOST:6379/ http://localhost./ http://a.localhost/ https://a.b.localhost.:1/
    """),
    "is longer than 2000 characters": ["http://example.com/" + "a" * 2000],
}


@pytest.mark.parametrize(("what", "url"), [(what, url) for what, urls in HOSTILE.items() for url in urls])
def test_hostile_and_mistaken_urls(what: str, url: str) -> None:
    """Each is refused when a client sends it, with the reason and without the URL."""
    found = url_error(url, AddressRules(allow_private=False))
    assert found is not None
    assert what in found
    assert url not in found or len(url) < 3


@pytest.mark.parametrize(
    "url",
    words("""
        http://example.com https://example.com/ HTTPS://EXAMPLE.COM:8443/a/b?c=d&e=%20#f http://example.com./
        http://a_b.example/ http://xn--mnchen-3ya.example/ http://1and1.com/ http://example.com:1/ http://internal/
        http://example.com:65535/ http://example.com:/ http://b/@x?y=http://c@d/ http://notlocalhost/
        http://localhost.example/ http://0x7f.example/
    """),
)
def test_valid_urls(url: str) -> None:
    """The address behind a name is checked at delivery."""
    assert url_error(url, AddressRules(allow_private=False)) is None


def test_names_of_this_machine_where_private_addresses_are_allowed() -> None:
    """A developer's own receiver has one. Other spellings of addresses stay refused."""
    assert url_error("http://localhost:9000/hook", AddressRules(allow_private=True)) is None
    assert url_error("http://0177.0.0.1/", AddressRules(allow_private=True)) is not None


def test_https_only() -> None:
    """Of a stack's callbacks nobody on the way may read the number."""
    rules = AddressRules(https_only=True)
    assert url_error("https://example.com/", rules) is None
    assert url_error("HTTPS://example.com/", rules) is None
    for url in ("http://example.com/", "HTTP://example.com/", "ftp://example.com/", "example.com"):
        assert "must begin with https://" in str(url_error(url, rules))


def info(host: str, family: int = socket.AF_INET) -> tuple[int, int, int, str, tuple[Any, ...]]:
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 80)


@pytest.mark.parametrize("host", [*PRIVATE, "127.1", "0x7f.1", "2130706433", "localhost", "example.com", ""])
def test_sockets_to_private_addresses_are_refused(host: str) -> None:
    """So is text that is not an address, which the system would resolve."""
    with pytest.raises(AddressRefusedError):
        guarded_socket(is_public)(info(host))


@pytest.mark.parametrize("host", PUBLIC)
def test_sockets_to_public_addresses(host: str) -> None:
    """They have the family of the address and are not connected yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with guarded_socket(is_public)(info(host, family)) as made:
        assert (made.family, made.type) == (family, socket.SOCK_STREAM)

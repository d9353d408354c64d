"""Who asks: addresses behind proxies, honest and forged, and where keys are looked for."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from magenta_bento.access.clients import Client, address_of, client_of, presented_key

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48")))
PROXY = "10.0.0.1"


def scope(
    peer: str | None = "203.0.113.9",
    *headers: tuple[str, str],
    kind: str = "http",
    method: str = "POST",
    query: bytes = b"",
) -> dict[str, Any]:
    """ASGI's, as uvicorn makes it."""
    made: dict[str, Any] = {
        "type": kind,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": None if peer is None else (peer, 51234),
        "query_string": query,
    }
    return made if kind == "websocket" else {**made, "method": method}


def forwarded(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


def address(peer: str | None, *values: str) -> str:
    return str(address_of(scope(peer, *forwarded(*values)), PROXIES))


# Addresses.


def test_without_proxies_no_header_counts() -> None:
    asked = scope(PROXY, *forwarded("198.51.100.7"), ("Forwarded", "for=198.51.100.7"))
    asked["headers"].append((b"x-real-ip", b"198.51.100.7"))
    assert str(address_of(asked, ())) == PROXY
    assert str(address_of(asked, PROXIES)) == "198.51.100.7"


def test_a_header_of_a_stranger_does_not_count() -> None:
    assert address("203.0.113.9", "198.51.100.7") == "203.0.113.9"
    assert address("203.0.113.9", "10.0.0.2") == "203.0.113.9"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, 10.0.0.2, 192.0.2.1"], "198.51.100.7"),
        (["198.51.100.7,10.0.0.2 ,\t2001:db8:1::5"], "198.51.100.7"),
        # What stands left of the client's own address, anybody may have written.
        (["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        (["10.0.0.9, 1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        (["garbage, 198.51.100.7"], "198.51.100.7"),
        # Proxies that add a header of their own.
        (["1.2.3.4", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        (["1.2.3.4, 198.51.100.7", "10.0.0.2, 192.0.2.1"], "198.51.100.7"),
        # Only proxies: the one that is farthest away asks for itself.
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([], PROXY),
        # As proxies write addresses.
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["[::ffff:198.51.100.7]:80, ::ffff:10.0.0.2"], "198.51.100.7"),
        # What can't be read ends the search: the hop that wrote it is known.
        (["unknown"], PROXY),
        ([""], PROXY),
        (["198.51.100.7,"], PROXY),
        (["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7, _hidden, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7, 10.0.0.0/8"], PROXY),
        (["999.1.1.1"], PROXY),
        (["0x7f.1"], PROXY),
        (["127.1"], PROXY),
        (["2130706433"], PROXY),
        (["['; DROP TABLE clients"], PROXY),
        (["\xff\xfe"], PROXY),
        ([",".join(["1.2.3.4"] * 10_000)], "1.2.3.4"),
    ],
)
def test_a_trusted_proxy_tells_the_client(values: list[str], client: str) -> None:
    assert address(PROXY, *values) == client


def test_a_proxy_that_listens_on_ipv6_is_the_same_one() -> None:
    assert address("::ffff:10.0.0.1", "198.51.100.7") == "198.51.100.7"
    assert address("2001:db8:1::1", "198.51.100.7") == "198.51.100.7"
    assert address("2001:db8:2::1", "198.51.100.7") == "2001:db8:2::1"


@pytest.mark.parametrize("peer", [None, "", "/run/server.sock"])
def test_over_a_unix_socket_there_is_no_address(peer: str | None) -> None:
    asked = scope(peer, *forwarded("198.51.100.7"))
    assert client_of(asked, PROXIES) == Client("address ", "", "")


# Who counts as one.


def who(peer: str) -> Client:
    return client_of(scope(peer), ())


def test_an_ipv4_address_is_a_client() -> None:
    assert who("203.0.113.9") == Client("address 203.0.113.9", "", "203.0.113.9")
    assert who("203.0.113.9").id != who("203.0.113.10").id
    assert who("::ffff:203.0.113.9").id == who("203.0.113.9").id


def test_an_ipv6_network_of_one_customer_is_a_client() -> None:
    mine = who("2001:db8:7:1::1")
    assert mine == Client("address 2001:db8:7:1::/64", "", "2001:db8:7:1::1")
    assert who("2001:db8:7:1:ffff:ffff:ffff:ffff").id == mine.id
    assert who("2001:db8:7:2::1").id != mine.id
    assert who("fe80::1%eth0").id == "address fe80::/64"


def test_a_key_is_one_client_from_anywhere() -> None:
    here, there = who("203.0.113.9").with_key("alice"), who("2001:db8::1").with_key("alice")
    assert here.id == there.id
    assert here == Client("key alice", "alice", "203.0.113.9")
    assert here.id != who("203.0.113.9").with_key("bob").id


def test_no_key_is_called_like_an_address() -> None:
    """A key named after an address does not share its limits."""
    assert who("203.0.113.9").with_key("203.0.113.9").id != who("203.0.113.9").id
    assert who("203.0.113.9").with_key("address 203.0.113.9").id != who("203.0.113.9").id


# Where a key is presented.

EVERYWHERE = [
    ("X-API-Key", "one"),
    ("Authorization", "Bearer two"),
    ("X-Goog-Api-Key", "three"),
]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        (EVERYWHERE, "one"),
        (EVERYWHERE[::-1], "one"),
        (EVERYWHERE[1:], "two"),
        (EVERYWHERE[2:], "three"),
        ([], "four"),
        # What is there but holds none is passed over.
        ([("X-API-Key", ""), *EVERYWHERE[1:]], "two"),
        ([("Authorization", "Basic dXNlcjpvbmU="), *EVERYWHERE[2:]], "three"),
        ([("Authorization", "Bearer"), *EVERYWHERE[2:]], "three"),
        ([("Authorization", "Bearer   "), *EVERYWHERE[2:]], "three"),
        ([("Authorization", "two")], "four"),
        ([("Authorization", "BEARER   two ")], "two"),
        ([("Authorization", "bearer a:b=c==")], "a:b=c=="),
        ([("Authorization", "Bearer two words")], "two words"),
        ([("X-API-Key", "one"), ("X-API-Key", "other")], "one"),
        ([("X-API-Key", "\xff")], "\xff"),
        ([("Cookie", "key=five")], "four"),
    ],
)
def test_headers_come_before_the_query(headers: list[tuple[str, str]], key: str) -> None:
    asked = scope("203.0.113.9", *headers, method="GET", query=b"key=four")
    assert presented_key(asked) == key


@pytest.mark.parametrize(
    ("kind", "method", "key"),
    [
        ("websocket", "", "four"),
        ("http", "GET", "four"),
        *(("http", method, None) for method in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get")),
    ],
)
def test_the_query_is_for_those_who_can_send_no_header(
    kind: str, method: str, key: str | None
) -> None:
    assert presented_key(scope(kind=kind, method=method, query=b"a=b&key=four")) == key


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"", None),
        (b"key", None),
        (b"key=", None),
        (b"KEY=four", None),
        (b"monkey=four", None),
        (b"key=&key=four", "four"),
        (b"key=four&key=five", "four"),
        (b"prompt=a%26key%3Dfive&key=a%3Ab%3D%2B", "a:b=+"),
        (b"key=%d0%ba", "к"),
        (b"key=%ff", "\N{REPLACEMENT CHARACTER}"),
        (b"key=\xff%", "\xff%"),
        (b"&&&=&key=four&%%%", "four"),
    ],
)
def test_a_query_is_read_as_a_form_is(query: bytes, key: str | None) -> None:
    assert presented_key(scope(method="GET", query=query)) == key

"""Which client sends a request: the address a request comes from, and the key it presents.

Invariant: an address is only taken from a header if a trusted proxy wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Scope

IPV6_CUSTOMER_BITS = 64  # what one customer gets (RFC 6177): one person, not 2**64
KEY_PARAMETER = "key"
KEY_HEADER = "X-API-Key"
BEARER_HEADER = "Authorization"
LYRIA_KEY_HEADER = "X-Goog-API-Key"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Client:
    """A client, as limits and queues count it.

    Attributes:
      id: What it is counted by.
      key: The name of the key; "" where none was asked for.
      address: Where the request comes from; "" if unknown, as over a Unix socket.
    """

    id: str
    key: str
    address: str

    def with_key(self, name: str) -> Client:
        """The same client once its key is known: a key is one client at any address."""
        return Client(f"key {name}", name, self.address)


def client_of(scope: Scope, trusted_proxies: Sequence[Network]) -> Client:
    """The client behind a request, by its address.

    Args:
      scope: ASGI's, of a request or a WebSocket.
      trusted_proxies: The networks whose ``X-Forwarded-For`` is believed.
    """
    address = address_of(scope, trusted_proxies)
    text = "" if address is None else str(address)
    if isinstance(address, IPv6Address):
        network = ip_network((address, IPV6_CUSTOMER_BITS), strict=False)
        return Client(f"address {network}", "", text)
    return Client(f"address {text}", "", text)


def address_of(scope: Scope, trusted_proxies: Sequence[Network]) -> Address | None:
    """The address of the client, or of the last hop that can be believed.

    X-Forwarded-For grows to the right, so it is read from there: the first address that is no
    trusted proxy is the client's; what stands left of it anybody may have written.
    """
    peer = _address(scope["client"][0]) if scope.get("client") else None
    if peer is None or not _is_in(peer, trusted_proxies):
        return peer
    headers = Headers(scope=scope).getlist("x-forwarded-for")
    hops = [hop for header in headers for hop in header.split(",")]
    for hop in reversed(hops):
        address = _address(hop)
        if address is None:
            return peer
        peer = address
        if not _is_in(address, trusted_proxies):
            break
    return peer


def presented_key(scope: Scope) -> str | None:
    """The key that a request presents; None if it presents none.

    Looked for in ``X-API-Key``, ``Authorization: Bearer``, ``X-Goog-API-Key`` (Lyria's clients),
    and, as neither a browser's WebSocket nor an ``<audio>`` can send a header, in ``?key=`` of
    a WebSocket and of GET.
    """
    headers = Headers(scope=scope)
    if key := headers.get(KEY_HEADER):
        return key
    scheme, _, credentials = headers.get(BEARER_HEADER, "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if key := headers.get(LYRIA_KEY_HEADER):
        return key
    if scope["type"] == "websocket" or scope.get("method") == "GET":
        query = scope["query_string"].decode("latin-1")
        return next((v for name, v in parse_qsl(query) if name == KEY_PARAMETER), None)
    return None


def _address(text: str) -> Address | None:
    """An address as proxies write it: perhaps with a port, perhaps an IPv4 one in IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)

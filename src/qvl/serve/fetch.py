"""A picture from the network, where a server allows it, without becoming a door to the network that it stands in.

An address is parsed once; its host is resolved once, every address that comes must be public, and the connection goes
to exactly that one. Redirects are not followed. Source: the advisories of servers that did it otherwise
(CVE-2026-24779, CVE-2026-34753: two parsers, or two look-ups, of which only one was checked).
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from qvl.serve.errors import ApiError

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
Resolve = Callable[[str], Sequence[str]]  # host -> addresses


@dataclass(frozen=True)
class Target:
    """Where to fetch from: a name to say, an address to connect to."""

    url: httpx.URL
    host: str
    address: str


def addresses_of(host: str) -> Sequence[str]:
    """All that the system's resolver knows. OSError for a name that is not known."""
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


def check_address(url: str, domains: Sequence[str] = (), resolve: Resolve = addresses_of) -> Target:
    """ApiError 400 with the reason unless url is http(s) to a public host, by name, at the scheme's own port."""
    if len(url) > 2048 or re.search(r"[\x00-\x20\x7f-\uffff\\]", url):
        raise _refused("it is too long or holds characters that no address has")
    try:
        parsed = httpx.URL(url)
        port = parsed.port
    except (httpx.InvalidURL, ValueError):
        raise _refused("it can't be read as one") from None
    if parsed.scheme not in PORTS:
        raise _refused("only http and https are fetched")
    if parsed.userinfo or "@" in parsed.netloc.decode("ascii", "replace"):
        raise _refused("it holds a user's name")
    if port not in (None, PORTS[parsed.scheme]):
        raise _refused("it names a port")
    host = parsed.host.lower()
    if not _HOST.fullmatch(host):
        raise _refused("its host must be a full name, not a number or a local name")
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in domains):
        raise _refused("its host is not among the allowed ones")
    try:
        found = resolve(host)
    except OSError:
        found = ()
    if not found or not all(is_public(address) for address in found):
        raise _refused("its host is not a public one")
    return Target(parsed, host, found[0])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, with no private one packed inside."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # Mapped, 6to4, Teredo and NAT64 addresses stand for IPv4 ones: none is needed to reach a public server.
        packed = ip.ipv4_mapped or ip.sixtofour or ip.teredo
        if packed or any(ip in ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def fetch(target: Target, max_bytes: int, timeout_s: float) -> bytes:
    """The body. ApiError 400 for a redirect or another status, one that is too large, one that takes too long."""
    deadline = time.monotonic() + timeout_s
    address = f"[{target.address}]" if ":" in target.address else target.address
    data = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET",
                target.url.copy_with(host=address),
                headers={"Host": target.host, "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            if response.status_code != 200:
                raise _refused(f"the server answers {response.status_code}; redirects are not followed")
            if int(response.headers.get("Content-Length", "0") or "0") > max_bytes:
                raise _refused(f"more than {max_bytes:,} bytes")
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > max_bytes:
                    raise _refused(f"more than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise _refused(f"not there after {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise _refused("its server can't be reached") from None
    return bytes(data)


def _refused(reason: str) -> ApiError:
    return ApiError(400, f"image_url: {reason}", "invalid_image_url", "messages")

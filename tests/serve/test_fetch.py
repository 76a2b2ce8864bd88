"""Addresses that must not be fetched, and servers that must not be trusted."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import httpx
import pytest

from qvl.serve.errors import ApiError
from qvl.serve.fetch import Target, check_address, fetch, is_public

PUBLIC = "93.184.216.34"
NEVER = [  # whatever they resolve to
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1%25eth0]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://10.0.0.1/",
    "http://100.64.0.1/",
    "http://192.168.1.1/",
    "http://93.184.216.34/",
    "http://localhost/",
    "http://intranet/",
    "http://a.b.1/",
    "file:///etc/passwd",
    "file://example.org/etc/passwd",
    "ftp://example.org/a.png",
    "gopher://example.org/",
    "data:image/png;base64,",
    "javascript:alert(1)",
    "//example.org/a.png",
    "/etc/passwd",
    "http:example.org",
    "http://",
    "http:///a.png",
    "http://user@example.org/",
    "http://user:pass@example.org/",
    "http://example.org@127.0.0.1/",
    "http://127.0.0.1@example.org/",
    "http://example.org\\@127.0.0.1/",
    "http:\\\\example.org\\a.png",
    "http://example.org\t/",
    "http://example.org\r\nHost: other/",
    " http://example.org/",
    "http://ex\u0430mple.org/",
    "http://①②⑦.0.0.1/",
    "http://example.org:22/",
    "http://example.org:99999/",
    "http://exam_ple.org/",
    "http://example..org/",
    "http://.example.org/",
    "http://-a.org/",
    "http://" + "a." * 130 + "org/",
    "http://example.org/" + "a" * 3000,
]
PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
    "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:0:a00:1::", "::a00:1", "2001:db8::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("url", NEVER, ids=lambda url: ascii(url)[:40])
def test_addresses_that_are_never_fetched(url: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_address(url, resolve=lambda host: [PUBLIC])
    assert refused.value.status == 400


@pytest.mark.parametrize("address", PRIVATE)
def test_hosts_of_private_networks(address: str) -> None:
    """Even where only one of a name's addresses is private."""
    assert not is_public(address)
    with pytest.raises(ApiError, match="not a public one"):
        check_address("https://example.org/a.png", resolve=lambda host: [PUBLIC, address])


def test_a_name_is_looked_up_once_and_that_address_is_used() -> None:
    """A second look-up could give another address."""
    answers: Iterator[Sequence[str]] = iter([[PUBLIC], ["127.0.0.1"]])
    target = check_address("https://Example.org/a.png?b=1", resolve=lambda host: next(answers))
    assert (target.host, target.address) == ("example.org", PUBLIC)


def test_domains() -> None:
    def check(url: str) -> Target:
        return check_address(url, ["example.org"], lambda host: [PUBLIC])

    assert check("https://example.org/a").host == "example.org"
    assert check("https://img.example.org/a").host == "img.example.org"
    for other in ("https://badexample.org/", "https://example.org.evil.net/", "https://example.com/"):
        with pytest.raises(ApiError, match="not among the allowed"):
            check(other)


def test_a_name_that_is_not_known() -> None:
    def unknown(host: str) -> Sequence[str]:
        raise socket.gaierror

    with pytest.raises(ApiError, match="not a public one"):
        check_address("https://no.example.org/", resolve=unknown)


@pytest.fixture
def answering() -> Iterator[Callable[[bytes | Callable[[socket.socket], None]], Target]]:
    """A server on this machine that says what it is told, as the target of a checked address."""
    listeners: list[socket.socket] = []

    def begin(answer: bytes | Callable[[socket.socket], None]) -> Target:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(4096)
                with suppress(OSError):
                    answer(connection) if callable(answer) else connection.sendall(answer.replace(b"ASKED", asked))

        threading.Thread(target=serve, daemon=True).start()
        url = httpx.URL(f"http://pictures.example.org:{listener.getsockname()[1]}/a.png")
        return Target(url, "pictures.example.org", "127.0.0.1")

    yield begin
    for listener in listeners:
        listener.close()


def get(target: Target, max_bytes: int = 10_000, timeout_s: float = 2) -> bytes:
    return asyncio.run(fetch(target, max_bytes, timeout_s))


def test_the_host_is_named_and_no_more_is_said(answering: Callable[[bytes], Target]) -> None:
    said = get(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nASKED"))
    assert b"Host: pictures.example.org" in said
    assert b"Cookie" not in said


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect"])
def test_redirects_are_not_followed(answering: Callable[[bytes], Target], status: bytes) -> None:
    answer = b"HTTP/1.1 %s\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n" % status
    with pytest.raises(ApiError, match="redirects are not followed"):
        get(answering(answer))


def test_bodies_that_are_too_large(answering: Callable[..., Target]) -> None:
    with pytest.raises(ApiError, match="more than 10,000 bytes"):
        get(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n"))

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(5000))

    with pytest.raises(ApiError, match="more than 10,000 bytes"):
        get(answering(endless))


def test_servers_that_are_slow(answering: Callable[..., Target]) -> None:
    """Byte after byte, each in time for itself."""

    def drop_by_drop(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"a")
            time.sleep(0.05)

    with pytest.raises(ApiError, match=r"not there after 0\.3 s"):
        get(answering(drop_by_drop), timeout_s=0.3)
    with pytest.raises(ApiError, match="can't be reached"):
        get(answering(lambda connection: time.sleep(1)), timeout_s=0.3)


def test_what_is_no_http(answering: Callable[[bytes], Target]) -> None:
    with pytest.raises(ApiError, match="can't be reached"):
        get(answering(b"SSH-2.0-OpenSSH\r\n"))

"""HTTP as clients speak it: upgrades, old versions and messages that can be read in two ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.http_server import JSON, RawConnection, echo, post, served

H2C = (
    b"connection: Upgrade, HTTP2-Settings",
    b"upgrade: h2c",
    b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that answers with what it got."""
    with served(echo) as it:
        yield it


@pytest.mark.source("Kludex/uvicorn#2722", "langchain4j/langchain4j#3682", "spring-projects/spring-ai#2427")
@pytest.mark.parametrize("size", [0, 2, 200_000])
def test_an_offer_of_http_2_is_ignored_and_the_body_read(port: int, size: int) -> None:
    """Java's client offers h2c with its first request: it is answered in HTTP/1.1, and so is the next one."""
    body = b"x" * size
    with RawConnection(port, post(b"/a", body, *H2C)) as wire:
        assert wire.answer()[::2] == (200, b"POST /a " + body)
        wire.say(post(b"/b", b"again"))
        assert wire.answer()[::2] == (200, b"POST /b again")


@pytest.mark.source("langchain4j/langchain4j#3883", "spring-projects/spring-ai#3567")
@pytest.mark.parametrize("cut", [0, 30, 290, 300, 310])
def test_an_offer_of_http_2_with_a_chunked_body(port: int, cut: int) -> None:
    """The same where the body comes in chunks, wherever the segments of the connection are cut."""
    head = b"POST /a HTTP/1.1\r\n" + JSON + b"".join(h + b"\r\n" for h in H2C) + b"transfer-encoding: chunked\r\n\r\n"
    message = head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" + post(b"/b", b"next")
    with RawConnection(port, message[:cut]) as wire:
        wire.say(message[cut:])
        assert wire.answer()[::2] == (200, b"POST /a abcde")
        assert wire.answer()[::2] == (200, b"POST /b next")


@pytest.mark.source("Kludex/uvicorn#1360")
def test_a_client_of_http_1_0_gets_no_chunks(port: int) -> None:
    """An answer without a length ends with the connection."""
    with RawConnection(port, post(b"/stream", b"abc", version=b"1.0")) as wire:
        head, _, body = wire.rest().partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"POST /stream abc"


@pytest.mark.source("pgjones/hypercorn#279", "unbit/uwsgi#2560", "cherrypy/cheroot#275")
@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5, 5",
        b"content-length: +5",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        b"content-length : 5",
        b"x-a: b\r\n c\r\ncontent-length: 5",
        b"host: other\r\ncontent-length: 5",
    ],
)
def test_a_message_that_can_be_read_in_two_ways_is_refused(port: int, framing: bytes) -> None:
    """400 in the shape of all errors, and the connection ends: nothing behind it is taken for a request."""
    with RawConnection(
        port, b"POST /a HTTP/1.1\r\n" + JSON + framing + b"\r\n\r\n0\r\n\r\n" + post(b"/b", b"smuggled")
    ) as wire:
        answer = wire.rest()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert b"smuggled" not in answer
    assert b'"code":"bad_http"' in answer


@pytest.mark.source("pgjones/hypercorn#279")
def test_old_versions_have_no_chunks_in_requests_either(port: int) -> None:
    """Chunks in HTTP/1.0 are a mistake of some proxy on the way (RFC 9112, 6.1)."""
    with RawConnection(port, b"POST /a HTTP/1.0\r\n" + JSON + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n") as wire:
        assert wire.rest().startswith(b"HTTP/1.1 400 ")


@pytest.mark.source("found in our own trials")
def test_who_asks_before_sending_is_told_to_go_on(port: int) -> None:
    """Expect: 100-continue is answered before the body has come."""
    message = post(b"/a", b"abc", b"expect: 100-continue")
    with RawConnection(port, message[:-3]) as wire:
        assert wire.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        wire.say(message[-3:])
        assert wire.answer()[::2] == (200, b"POST /a abc")


@pytest.mark.source("found in our own trials")
@pytest.mark.parametrize("line", [b"post /a HTTP/1.1", b"CONNECT evil:80 HTTP/1.1", b"GET a HTTP/1.1", b"\x16\x03\x01"])
def test_what_is_no_request_of_ours_is_answered_400(port: int, line: bytes) -> None:
    """A method in lower case, a proxy's method, a target that is none, TLS on a plain port."""
    with RawConnection(port, line + b"\r\nhost: x\r\n\r\n") as wire:
        assert wire.rest().startswith(b"HTTP/1.1 400 ")

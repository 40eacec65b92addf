"""Session and side socket: numbers, replies that are wrong, and hellos that are wrong, without a kvstore."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from quire_proto.client.attach_socket import SideSocket
from quire_proto.client.requests import UNORDERED_FROM, Pending, Session
from quire_proto.messages import Empty, Extend, Extended, Limits
from quire_proto.op_table import EXTEND, STATS
from quire_proto.wire.codec import encode
from quire_proto.wire.envelope import VERSION, Reply, decode_request
from quire_proto.wire.errors import BadRequest, KvstoreUnreachable, OutOfOrder, QuireError, RemoteError, StaleSession

BOOT = b"b" * 16


@pytest.fixture
def session() -> Session:
    """An open session with a window of 3."""
    opened = Session(BOOT, b"s" * 16)
    opened.limits, opened.block_size = Limits(1 << 20, 10, 10, 3), 16
    return opened


def extend(session: Session) -> Pending:
    """One ordered request."""
    return session.request(EXTEND, Extend(1, 16), 1.0)


def reply(number: int, code: str = "", body: dict[str, object] | None = None, boot: bytes = BOOT) -> bytes:
    """A reply frame to an extend."""
    return Reply(boot, number, code, {"code": 0} if body is None else body).encode()


def test_ordered_and_other_requests_have_numbers_of_their_own(session: Session) -> None:
    """Ordered requests count from 1 without gaps, the others from far above."""
    numbers = [extend(session).number, session.request(STATS, Empty(), 1.0).number, extend(session).number]

    assert numbers == [1, UNORDERED_FROM, 2]
    assert [decode_request(p.frame).number for p in session.in_flight()] == [1, 2, UNORDERED_FROM]


def test_the_window_counts_from_the_oldest_unanswered_request(session: Session) -> None:
    """Answers to later requests make no room: the oldest may still have to be resent."""
    pendings = [extend(session) for _ in range(3)]
    assert not session.has_space()
    session.feed(reply(3))
    assert not session.has_space()
    (answer,) = session.feed(reply(1))
    assert (answer.pending, answer.result()) == (pendings[0], Extended(0))
    assert session.has_space()


def test_a_reply_to_nothing_in_flight_is_dropped(session: Session) -> None:
    """A second copy, or a number never used, answers nothing."""
    extend(session)
    assert len(session.feed(reply(1))) == 1
    assert session.feed(reply(1)) == []
    assert session.feed(reply(99)) == []


def test_a_gap_is_repaired_by_a_resend_unless_it_is_ours(session: Session) -> None:
    """OUT_OF_ORDER behind an unanswered request waits for it; for the oldest it is an error."""
    extend(session)
    extend(session)
    assert session.feed(reply(2, "OUT_OF_ORDER", {})) == []
    assert len(session.in_flight()) == 2
    (answer,) = session.feed(reply(1, "OUT_OF_ORDER", {"message": "gap", "detail": {"expected": 5}}))
    with pytest.raises(OutOfOrder) as caught:
        answer.result()
    assert caught.value.detail == {"expected": 5}


def test_a_gap_that_was_closed_meanwhile_is_no_error(session: Session) -> None:
    """The answer to what was missing overtook the complaint: the resend is still to come."""
    extend(session)
    extend(session)
    session.feed(reply(1))
    assert session.feed(reply(2, "OUT_OF_ORDER", {"message": "gap", "detail": {"expected": 1}})) == []
    assert len(session.in_flight()) == 1


def test_what_was_refused_goes_out_again_with_all_behind_it(session: Session) -> None:
    """BUSY ends nothing; it says after how long, within reason, and is told once."""
    first, second, third = extend(session), extend(session), session.request(STATS, Empty(), 1.0)
    assert session.feed(reply(1, "BUSY", {"detail": {"retry_after_ms": 40}})) == []
    assert session.drain_refused() == (0.04, [first, second])
    assert session.drain_refused() == (0.0, [])
    for said in ({}, {"detail": {"retry_after_ms": -1}}, {"detail": 7}):
        assert session.feed(reply(third.number, "BUSY", said)) == []
        assert session.drain_refused() == (0.1, [third])
    session.feed(reply(third.number, "BUSY", {"detail": {"retry_after_ms": 1 << 40}}))
    assert session.drain_refused() == (10.0, [third])
    session.feed(reply(2, "BUSY"))
    session.feed(reply(2))
    assert session.drain_refused() == (0.0, [])


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (reply(1, "STALE_SESSION", {"message": "m"}), StaleSession),
        (reply(1, boot=b"x" * 16), StaleSession),
        (reply(1, "FROM_THE_FUTURE", {"message": "m"}), RemoteError),
        (reply(1, body={"code": "zero"}), BadRequest),
        (reply(1, body={"code": 0, "colour": 1}), BadRequest),
        (reply(0, "BAD_FRAME", {"message": "m"}), BadRequest),
        (b"\xc1 no reply at all", BadRequest),
    ],
)
def test_a_wrong_reply_is_an_error_of_its_request(session: Session, frame: bytes, error: type[QuireError]) -> None:
    """Error codes, another boot, fields that do not decode, and frames that cannot be read at all."""
    extend(session)
    (answer,) = session.feed(frame)

    with pytest.raises(error):
        answer.result()
    assert session.in_flight() == []


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (encode({"version": VERSION + 1, "boot": BOOT, "token": BOOT}), "BAD_VERSION"),
        (encode({"version": VERSION, "boot": b"short", "token": BOOT}), "boot"),
        (encode({"version": VERSION, "boot": BOOT}), "token"),
        (encode([1, BOOT, BOOT]), "expected a map"),
        (b"\xc1", "hello"),
    ],
)
def test_a_wrong_hello_is_refused(tmp_path: Path, hello: bytes, reason: str) -> None:
    """A kvstore of another version, or something else at that path, is told apart at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "attach.sock"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.send(hello)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(BadRequest, match=reason):
            SideSocket(tmp_path, 5.0)
        server.join()


def test_the_end_of_the_side_socket_is_seen_at_once(tmp_path: Path) -> None:
    """closed() is False while the other end lives, and True as soon as it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "attach.sock"))
        listener.listen()
        sides: list[SideSocket] = []
        client = threading.Thread(target=lambda: sides.append(SideSocket(tmp_path, 5.0)))
        client.start()
        connection, _ = listener.accept()
        connection.send(encode({"version": VERSION, "boot": BOOT, "token": b"t" * 16}))
        client.join()
        (side,) = sides
        assert (side.boot, side.token, side.closed()) == (BOOT, b"t" * 16, False)
        connection.close()
        assert side.closed()
        side.close()
        assert side.closed()
    with pytest.raises(KvstoreUnreachable):
        SideSocket(tmp_path, 0.05)

"""Frames out of whatever pieces a socket gives."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.frames import MOST_HELLO_BYTES, FrameProtocol


class Connection:
    """Ends when it is told to."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Receiver(FrameProtocol):
    """Keeps what came, and whether more had come with it."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[bytes, bool]] = []
        self.connection = Connection()
        self.transport = cast(asyncio.Transport, self.connection)

    def received(self, message: bytes) -> None:
        self.came.append((message, self.has_more))


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


@given(messages=st.lists(st.binary(max_size=300), max_size=6), cuts=st.sets(st.integers(0, 2000)))
def test_frames_come_whole_and_in_order(messages: list[bytes], cuts: set[int]) -> None:
    stream = b"".join(framed(message) for message in messages)
    receiver = Receiver()
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in pairwise(edges):
        receiver.data_received(stream[start:end])
    assert [message for message, _ in receiver.came] == messages
    assert not receiver.connection.aborted


def test_the_last_frame_of_a_piece_knows_that_it_is() -> None:
    receiver = Receiver()
    receiver.data_received(framed(b"one"))
    receiver.data_received(framed(b"two") + framed(b"three"))
    receiver.data_received(framed(b"four") + b"\x05\x00")
    receiver.data_received(b"\x00\x00fives")
    assert receiver.came == [
        (b"one", False),
        (b"two", True),
        (b"three", False),
        (b"four", True),
        (b"fives", False),
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_a_stranger_has_little_room(whole: bool) -> None:
    frame = framed(bytes(MOST_HELLO_BYTES + 1))
    receiver = Receiver()
    receiver.data_received(frame if whole else frame[:100])
    assert receiver.connection.aborted
    assert not receiver.came

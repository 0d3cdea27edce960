"""Frames both ways: letting in, answering, hanging up, and connecting again."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from modelyard.dataplane.v1 import dataplane_pb2

from service_kit import frames
from service_kit.frame_link import Correspondent, FrameLink
from service_kit.frame_server import FrameServer, Visitor
from service_kit.security import ensure_suite_keys
from service_kit.settings import ServiceSettings
from service_kit.transport import UnsafeAddressError

SETTINGS = ServiceSettings(service="one", service_token="token")
STRANGER = ServiceSettings(service="one", service_token="other")
SCOPE = "echo:say"


class Pen(Correspondent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.frames: list[bytes] = []
        self.owed = 0.0

    def linked(self) -> None:
        self.told.append("linked")

    def received(self, message: bytes) -> None:
        if message == b"bad":
            raise ValueError("nonsense")
        self.frames.append(message)

    def unlinked(self) -> None:
        self.told.append("unlinked")
        self.owed = 0.0

    @property
    def waiting_since(self) -> float:
        return self.owed


def echo(visitor: Visitor, message: bytes) -> None:
    visitor.answer(message)


@contextmanager
def server(
    take: Callable[[Visitor, bytes], None] = echo,
    port: int = 0,
    settings: ServiceSettings = SETTINGS,
    host: str = "127.0.0.1",
) -> Iterator[str]:
    made = FrameServer(settings, f"{host}:{port}", SCOPE, take)
    address = made.start()
    try:
        yield address
    finally:
        made.stop()


@asynccontextmanager
async def link(
    address: str, pen: Pen, settings: ServiceSettings = SETTINGS, stall_s: float = 5.0
) -> AsyncIterator[FrameLink]:
    connect = functools.partial(frames.connect, settings=settings)
    made = FrameLink("peer", address, connect, frames.hello(settings), pen, stall_s)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


def test_what_is_said_comes_back() -> None:
    pen = Pen()

    async def talk(address: str) -> None:
        async with link(address, pen) as line:
            line.send(b"into the void")  # not linked yet
            await until(lambda: line.up)
            sent = [b"", b"one", b"x" * 2_000_000, *(b"%d" % at for at in range(100))]
            for message in sent:
                line.send(message)
            await until(lambda: len(pen.frames) == len(sent))
            assert pen.frames == sent

    with server() as address:
        asyncio.run(talk(address))
    assert pen.told == ["linked", "unlinked"]


def test_who_does_not_know_the_token_is_not_let_in() -> None:
    pen, told = Pen(), []

    async def talk(address: str) -> None:
        async with link(address, pen, STRANGER) as line:
            await asyncio.sleep(0.2)
            assert not line.up

    def take(visitor: Visitor, message: bytes) -> None:
        told.append(message)

    with server(take) as address:
        asyncio.run(talk(address))
    assert (pen.told, told) == ([], [])


def test_who_lacks_the_scope_or_begins_with_a_long_frame_is_not_let_in() -> None:
    identity = {"authorization": "Service token", "modelyard-principal": "p"}
    poor = dataplane_pb2.Hello(metadata={**identity, "modelyard-scopes": "echo:hear"})

    async def ask(address: str, first: bytes) -> bytes:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(len(first).to_bytes(4, "little") + first)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    with server() as address:
        answer = asyncio.run(ask(address, poor.SerializeToString()))
        assert dataplane_pb2.Welcome.FromString(answer[4:]).error_reason == "SCOPE_MISSING"
        assert asyncio.run(ask(address, b"x" * 5_000)) == b""


def test_a_link_is_made_again_when_the_peer_is_back() -> None:
    pen = Pen()

    async def talk() -> None:
        first = server()
        address = first.__enter__()
        async with link(address, pen) as line:
            await until(lambda: line.up)
            await asyncio.to_thread(first.__exit__, None, None, None)
            await until(lambda: not line.up)
            assert pen.told == ["linked", "unlinked"]
            with server(port=int(address.rpartition(":")[2])):
                await until(lambda: line.up)
                line.send(b"again")
                await until(lambda: pen.frames == [b"again"])

    asyncio.run(talk())


def test_a_peer_that_answers_nothing_is_given_up_and_nonsense_ends_a_link() -> None:
    pen = Pen()
    answers = [b"bad"]

    def take(visitor: Visitor, message: bytes) -> None:
        if message == b"lie":
            visitor.answer(answers[0])

    async def talk(address: str) -> None:
        async with link(address, pen, stall_s=0.2) as line:
            await until(lambda: line.up)
            pen.owed = began = time.monotonic()
            line.send(b"silence")
            await until(lambda: pen.told == ["linked", "unlinked"])
            assert 0.15 < time.monotonic() - began < 2
            await until(lambda: line.up)
            await asyncio.sleep(0.4)
            assert line.up  # nothing is owed
            line.send(b"lie")
            await until(lambda: pen.told.count("unlinked") == 2)

    with server(take) as address:
        asyncio.run(talk(address))


def test_a_server_that_stops_answers_what_it_has_first() -> None:
    pen = Pen()
    held: list[Visitor] = []
    made = FrameServer(SETTINGS, "127.0.0.1:0", SCOPE, lambda visitor, _: held.append(visitor))
    address = made.start()

    async def talk() -> None:
        async with link(address, pen) as line:
            await until(lambda: line.up)
            line.send(b"question")
            await until(lambda: held)
            stopping = asyncio.create_task(asyncio.to_thread(made.stop))
            await asyncio.sleep(0.1)
            assert line.up
            loop = made._loop
            assert loop is not None
            loop.call_soon_threadsafe(held[0].answer, b"answer")
            await until(lambda: pen.frames == [b"answer"])
            await until(lambda: "unlinked" in pen.told)
            await stopping

    asyncio.run(talk())


def test_an_address_that_is_taken_or_unsafe_is_refused_at_the_start() -> None:
    with server() as address, pytest.raises(OSError, match="in use"):
        FrameServer(SETTINGS, address, SCOPE, echo).start()
    with pytest.raises(UnsafeAddressError):
        FrameServer(SETTINGS, "0.0.0.0:0", SCOPE, echo).start()


def test_with_tls_both_sides_show_certificates(tmp_path: Path) -> None:
    keys = ensure_suite_keys(tmp_path)
    tls = ServiceSettings(
        service="one",
        home=tmp_path,
        tls_cert=keys.tls_cert,
        tls_key=keys.tls_key,
        tls_ca=keys.ca_cert,
    )
    plain = tls.model_copy(update={"tls_cert": None, "tls_key": None, "tls_ca": None})
    pen, other = Pen(), Pen()

    async def talk(address: str) -> None:
        async with link(address, other, plain) as without:
            async with link(address, pen, tls) as line:
                await until(lambda: line.up)
                line.send(b"hidden")
                await until(lambda: pen.frames == [b"hidden"])
            assert not without.up

    with server(settings=tls, host="0.0.0.0") as address:
        asyncio.run(talk(address.replace("0.0.0.0", "localhost")))
    assert other.told == []

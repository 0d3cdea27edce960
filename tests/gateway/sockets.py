"""A gateway behind real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway.server import bind

if TYPE_CHECKING:
    from tests.gateway.conftest import Suite


@dataclass
class Served:
    """A gateway behind real sockets: with the lane, without it, or both."""

    suite: Suite
    ordinary: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    servers: list[uvicorn.Server] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.ordinary += 1
        await self.suite.gateway.app(scope, receive, send)

    async def start(self, name: str, protocol: Any) -> None:
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        server = uvicorn.Server(config)
        listener = bind("127.0.0.1:0")
        self.ports[name] = listener.getsockname()[1]
        config.load()
        self.servers.append(server)
        self.tasks.append(asyncio.create_task(server._serve(sockets=[listener])))
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        for server in self.servers:
            server.should_exit = True
        await asyncio.gather(*self.tasks)

    async def send(
        self, name: str, parts: list[bytes], answers: int = 1, pause: float = 0.0
    ) -> list[tuple[int, dict[str, str], bytes]]:
        """Send bytes in parts on one connection; gives status, headers, body of each answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[name])
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                if pause:
                    await asyncio.sleep(pause)
            return [await asyncio.wait_for(read_answer(reader), 10) for _ in range(answers)]
        finally:
            writer.close()

    def ask(self, name: str, *parts: bytes, **more: Any) -> list[tuple[int, dict[str, str], bytes]]:
        return self.suite.run(self.send(name, list(parts), **more))


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body

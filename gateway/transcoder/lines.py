"""Lines of JSON out of a body that comes in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from service_kit.errors import InvalidArgument

#: Longest line in bytes: a chunk of 1 MiB in base64, with room to spare.
MOST_LINE = 2 * 1024 * 1024


async def json_lines(parts: AsyncIterator[bytes], most: int = MOST_LINE) -> AsyncIterator[bytes]:
    """The lines that are not blank, without their ends.

    Raises:
        InvalidArgument: `LINE_TOO_LONG`.
    """
    rest = bytearray()
    async for part in parts:
        *lines, tail = part.split(b"\n")
        for line in lines:
            rest += line
            if stripped := _checked(rest, most).strip():
                yield bytes(stripped)
            rest.clear()
        rest += tail
        _checked(rest, most)
    if stripped := rest.strip():
        yield bytes(stripped)


def _checked(line: bytearray, most: int) -> bytearray:
    if len(line) > most:
        raise InvalidArgument("LINE_TOO_LONG", f"a line may have {most} bytes at most")
    return line

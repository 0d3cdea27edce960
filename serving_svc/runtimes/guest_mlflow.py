"""The guest's side: a program on its own, run by the interpreter of the model's environment.

Of ours it imports nothing, for that environment has only what the model asks for.

    python -I guest_mlflow.py MODEL_FOLDER SOCKET MEMORY_BYTES
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct("<III")
PR_SET_PDEATHSIG = 1


def confine(memory_bytes: int) -> None:
    """Bind this process to its parent's life and to its limits, before any code of a model runs."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load(folder: str) -> Callable[[Any], Any]:
    """A function from float32 rows x inputs to whatever the model answers."""
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(folder)
    schema = model.metadata.get_input_schema()
    if schema is None or not schema.has_input_names():
        plain: Callable[[Any], Any] = model.predict
        return plain
    import pandas as pd

    kinds = [each.to_numpy() for each in schema.input_types()]
    names = schema.input_names()

    def predict(matrix: Any) -> Any:
        columns = {
            name: matrix[:, at].astype(kind)
            for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }
        return model.predict(pd.DataFrame(columns))

    return predict


def read(connection: socket.socket, size: int) -> bytearray:
    """So many bytes; raises EOFError when the other side is gone."""
    content = bytearray()
    while len(content) < size:
        chunk = connection.recv(min(size - len(content), 1 << 20))
        if not chunk:
            raise EOFError
        content += chunk
    return content


def say(connection: socket.socket, error: BaseException) -> None:
    """Tell what went wrong; the kind and the first line alone."""
    first = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {first}"[:500].encode()
    connection.sendall(HEADER.pack(1, len(text), 0) + text)


def serve(connection: socket.socket, predict: Callable[[Any], Any]) -> None:
    """Answer until the parent is gone."""
    import numpy as np

    while True:
        _, rows, width = HEADER.unpack(read(connection, HEADER.size))
        content = read(connection, rows * width * 4)
        matrix = np.frombuffer(content, "<f4").reshape(rows, width)
        try:
            table = np.asarray(predict(matrix), dtype="<f4").reshape(rows, -1)
        except Exception as error:
            say(connection, error)
            continue
        connection.sendall(HEADER.pack(0, *table.shape))
        connection.sendall(np.ascontiguousarray(table).data)


def main(folder: str, number: int, memory_bytes: int) -> None:
    """Load the model, say so, and answer."""
    with socket.socket(fileno=number) as connection:
        try:
            confine(memory_bytes)
            predict = load(folder)
        except BaseException as error:
            say(connection, error)
            return
        connection.sendall(HEADER.pack(0, 0, 0))
        with contextlib.suppress(EOFError, OSError):
            serve(connection, predict)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

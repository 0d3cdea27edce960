"""The process of a replica, which can outlive the actor that started it.

python -m serving_svc.replica_process SOCKET

Over the socket come the replica's configuration, a line of JSON, and later the order to stop; its
address, or why it can't be had, goes back. Ray ends what its workers have started when a worker
or raylet ends: so this process starts another one, of a session of its own, stays until that has
loaded its model, and leaves it behind. Until then each ends with its parent.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from service_kit.process import die_with_parent, outlive_parent

if TYPE_CHECKING:
    from serving_svc.replica import Replica

#: Exit status of the first process when the second one was ended by signal N: this plus N.
BY_SIGNAL = 128
LOOK_S = 1.0


def main(control: socket.socket) -> int:
    """Fork; the exit status of either process."""
    die_with_parent(signal.SIGKILL)
    waits, loaded = os.pipe()
    child = os.fork()
    if child:
        os.close(loaded)
        control.close()
        return _wait_for(child, waits)
    os.close(waits)
    die_with_parent(signal.SIGKILL)
    os.setsid()
    return _run(control, loaded)


def _wait_for(child: int, waits: int) -> int:
    if os.read(waits, 1):
        return 0
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else BY_SIGNAL - code


def _run(control: socket.socket, loaded: int) -> int:
    from service_kit.process import settle_memory
    from serving_svc.replica import Replica

    with control.makefile("r", encoding="utf-8") as lines:
        config = json.loads(lines.readline())
    try:
        replica = Replica(config)
    except Exception as error:
        _say(control, error=f"{type(error).__name__}: {error}")
        return 1
    settle_memory()
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    outlive_parent()
    os.write(loaded, b"1")
    os.close(loaded)
    _say(control, address=replica.address, pid=os.getpid())
    if not serve(replica, control, ending):
        return 1
    replica.stop()
    return 0


def serve(replica: Replica, control: socket.socket, ending: threading.Event) -> bool:
    """Wait until the replica is to stop, by its actor's order or as an orphan without need.

    False when its data plane has ended by itself.
    """
    has_actor = True
    while replica.alive:
        if ending.is_set() or not replica.needed:
            return True
        if not has_actor:
            ending.wait(LOOK_S)
        elif select.select([control], [], [], LOOK_S)[0]:
            if _ordered(control):
                return True
            has_actor = False
            replica.orphan()
    return False


def _ordered(control: socket.socket) -> bool:
    """Whether there is an order, rather than the end of whoever gives them."""
    try:
        return bool(control.recv(64))
    except ConnectionError:
        return False


def _say(control: socket.socket, **what: object) -> None:
    control.sendall(json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        status = main(given)
    # Not by the interpreter's ordinary end: threads of libraries could hold that up.
    sys.stdout.flush()
    os._exit(status)

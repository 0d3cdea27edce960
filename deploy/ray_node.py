"""A Ray node in a container: `python /app/ray_node.py head | worker | join COMMAND…`.

`join` adds a node without CPUs to the cluster and becomes COMMAND: what talks to Ray must run on
a node of it, yet no work shall be placed beside a service. MODELYARD_RAY_ADDRESS says where the
head is, MODELYARD_RAY_CPUS how many CPUs a worker offers (all when it is empty).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

NODE_PORT = 6390
OBJECT_STORE_BYTES = 256 * 1024 * 1024


def start_command(role: str, env: Mapping[str, str], host: str) -> list[str]:
    """The `ray start` of a role; `host` is this container's address."""
    head = env["MODELYARD_RAY_ADDRESS"]
    cpus = env.get("MODELYARD_RAY_CPUS", "")
    command = [
        *("ray", "start", "--disable-usage-stats", f"--node-ip-address={host}"),
        "--include-log-monitor=false",  # nobody has logs sent to a driver
        *(f"--node-manager-port={NODE_PORT}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
    ]
    if role == "head":
        port = head.rpartition(":")[2]
        return [
            *command,
            *("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--block"),
            "--no-monitor",  # nor nodes added
        ]
    if role == "worker":
        offer = [f"--num-cpus={cpus}"] if cpus else []
        return [*command, f"--address={head}", *offer, "--block"]
    return [*command, f"--address={head}", "--num-cpus=0"]


def main(arguments: list[str]) -> NoReturn:
    """Start the node and become it, or the command that joins; exits with 2 when asked wrongly."""
    role, command = (arguments or [""])[0], arguments[1:]
    if role not in ("head", "worker", "join") or bool(command) != (role == "join"):
        sys.stderr.write("usage: ray_node.py head | worker | join COMMAND…\n")
        sys.exit(2)
    # Not by the route to the outside, as Ray would find it: there may be none.
    host = socket.gethostbyname(socket.gethostname())
    start = start_command(role, os.environ, host)
    if role == "join":
        subprocess.run(start, check=True)  # noqa: S603
        start = command
    os.execvp(start[0], start)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])

"""Health check of a container: `python /app/healthcheck.py URL` exits with 0 when it is well.

`http` and `https` addresses must answer with a status below 400. To `https` goes the certificate
that MODELYARD_TLS_CERT, _KEY and _CA name, if they are set. `tcp://host:port` must take a
connection. Standard library only: it starts every few seconds.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from urllib.parse import SplitResult, urlsplit

SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Ask one address; returns the exit status and says on stderr what is wrong."""
    if len(arguments) != 1:
        sys.stderr.write("usage: healthcheck.py http(s)://host:port/path | tcp://host:port\n")
        return 2
    try:
        problem = ask(urlsplit(arguments[0]))
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


def ask(url: SplitResult) -> str:
    """What is wrong with an address; empty when it is well.

    Raises:
        OSError: When nothing answers.
        ValueError: For an address of another kind.
    """
    if url.hostname is None or url.port is None:
        raise ValueError("the address needs a host and a port")
    if url.scheme == "tcp":
        socket.create_connection((url.hostname, url.port), SECONDS).close()
        return ""
    connection = _connection(url.scheme, url.hostname, url.port)
    try:
        connection.request("GET", url.path or "/")
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status < 400 else f"status {status}"


def _connection(scheme: str, host: str, port: int) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=SECONDS)
    if scheme != "https":
        raise ValueError("the address must begin with http, https or tcp")
    context = ssl.create_default_context(cafile=os.environ.get("MODELYARD_TLS_CA") or None)
    if certificate := os.environ.get("MODELYARD_TLS_CERT"):
        context.load_cert_chain(certificate, os.environ.get("MODELYARD_TLS_KEY"))
    return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

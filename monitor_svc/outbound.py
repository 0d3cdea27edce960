"""HTTP to the outside: the only file that imports httpx, and a guard around it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping

import httpx

from service_kit.errors import FailedPrecondition, Unavailable

TIMEOUT_S = 5.0
Resolver = Callable[[str, int], Iterable[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable("HOST_NOT_FOUND", "the host of the sink has no address") from error
    return [str(item[4][0]) for item in found]


class GuardedClient:
    """Posts to public addresses only, unless a host is allowed by name.

    The address that was checked is the one connected to, so a name that changes its address
    between the two cannot lead inside. Redirects are not followed, proxies of the environment
    are not used, and no answer is read.
    """

    def __init__(self, allowed_hosts: Iterable[str] = (), resolver: Resolver = resolve) -> None:
        self._allowed = {host.lower() for host in allowed_hosts}
        self._resolve = resolver
        self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a body and give the status.

        Raises FailedPrecondition (`ADDRESS_REFUSED`) and Unavailable (`SINK_UNAVAILABLE`).
        """
        target = httpx.URL(url)
        if target.scheme not in ("http", "https") or not target.host:
            raise FailedPrecondition("ADDRESS_REFUSED", "only http and https are spoken")
        port = target.port or (443 if target.scheme == "https" else 80)
        address = self._checked_address(target.host, port)
        request = self._client.build_request(
            "POST",
            target.copy_with(host=address),
            content=body,
            headers={**headers, "host": target.netloc.decode()},
            extensions={"sni_hostname": target.host},
        )
        try:
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise Unavailable("SINK_UNAVAILABLE", "the sink did not answer") from error
        response.close()
        return response.status_code

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _checked_address(self, host: str, port: int) -> str:
        addresses = list(self._resolve(host, port))
        allowed = host.lower() in self._allowed
        if not addresses or not (allowed or all(is_public(address) for address in addresses)):
            raise FailedPrecondition(
                "ADDRESS_REFUSED", "the host is not public and not allowed by name"
            )
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address can be reached by anyone.

    >>> is_public("169.254.169.254"), is_public("::ffff:10.0.0.1"), is_public("8.8.8.8")
    (False, False, True)
    """
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour
        if embedded is not None:
            parsed = embedded
    return parsed.is_global and not parsed.is_multicast

"""The server of the page: its socket, the names it answers to, and its end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base.errors import InputError
from ..inference.answers import Searchable
from .app import make_app

if TYPE_CHECKING:
    import uvicorn

_CONNECTIONS = 512  # at the same time; a browser holds six


def listen(host: str, port: str) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address of this machine, or a name of one.
        port: a number; "0" takes any that is free.

    Raises:
        InputError: the port is none, is taken, or is not allowed; the host is not of this machine.
    """
    if not (re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535):
        raise InputError(f"--port: found {port!r:.20}, expected a whole number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise InputError(
            f"--host: found {host!r}, which is neither an address nor a known name; 127.0.0.1 is "
            f"this machine alone"
        ) from None
    opened = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # where it would let a second program take the same port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError as fault:
        opened.close()
        reason = os.strerror(fault.errno or 0).lower()
        raise InputError(
            f"{host} port {port} cannot be listened at ({reason}); choose another port by --port, "
            f"or an address of this machine by --host"
        ) from None
    return opened


def make_server(
    searchable: Searchable, bound: socket.socket, *, names: Sequence[str] = ()
) -> uvicorn.Server:
    """A server of the page, to be run with a socket.

    Args:
        bound: the socket.
        names: by which browsers reach this machine, besides its own and its addresses.

    Raises:
        InputError: FastAPI or uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError(
            "the page needs uvicorn, which is not installed: pip install fastapi uvicorn"
        ) from None
    config = uvicorn.Config(
        make_app(searchable, hosts=("localhost", socket.gethostname(), socket.getfqdn(), *names)),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def serve(searchable: Searchable, bound: socket.socket, *, names: Sequence[str] = ()) -> None:
    """Show an index until the process is interrupted; see ``make_server``."""
    server = make_server(searchable, bound, names=names)
    _announce(searchable, bound)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn gives on when it has ended
        server.run(sockets=[bound])
    print("stopped")


def _announce(searchable: Searchable, bound: socket.socket) -> None:
    about = ", ".join(f"{name} {value}" for name, value in searchable.about.items())
    print(f"{len(searchable):,} videos ({about})")
    address, port = ipaddress.ip_address(bound.getsockname()[0]), bound.getsockname()[1]
    shown = socket.gethostname() if address.is_unspecified else _written(address)
    print(f"open http://{shown}:{port}/ in a browser; stop with Ctrl+C", flush=True)
    if not address.is_loopback:
        print("whoever reaches this port can search the index and play its videos", flush=True)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)

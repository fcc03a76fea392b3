"""The server as a process: it listens, and on SIGTERM gives the answers that it has begun."""

import signal
import socket
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp

from fugaku_jax.errors import InputError

_IDLE_SECONDS = 75
"""How long a connection is kept for another request. As uvicorn has it, 5, a busy client's next
request often meets the connection's end."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: an address or a name of this machine.
        port: 0 for any that is free.

    Raises:
        InputError: it cannot listen there.
    """
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port is {port}, but it must be from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        told = f"--host {host} --port {port}: cannot listen there: {error.strerror}."
        raise InputError(told) from error


def is_loopback(host: socket.socket) -> bool:
    """Tell whether only this machine reaches a socket."""
    return ip_address(host.getsockname()[0]).is_loopback


def serve(app: ASGIApp, listening: socket.socket, drain_seconds: float) -> None:
    """Answer requests until the process is told to end.

    Args:
        app: what answers.
        listening: where requests come.
        drain_seconds: what answers that have begun may take then.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds) or 1,
    )
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"http://{host}:{port}", flush=True)
    for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again in the end
        signal.signal(each, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])

"""Serve an ASGI app on a socket: uvicorn without its signal handlers, log configuration and polling.

It runs inside the program's own event loop, so that a run can hold its built-in servers, and stops within its grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import anyio
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from retinue.errors import ConfigError

from ...auth.urls import is_loopback
from .endpoint import Wrap
from .server import ToolServer

GRACE: Final = 3.0
"""Seconds that open requests get to finish when the server stops."""

KEEP_ALIVE: Final = 75
"""Seconds that an idle connection stays open. Clients of ours close theirs sooner, so that a request never meets a
connection that the server is closing."""

HEAD_TIMEOUT: Final = 30.0
"""Seconds that a client has to send the head of a request, from its first byte or from connecting."""

_log = logging.getLogger("retinue.mcp_servers.http")
_log.setLevel(logging.ERROR)  # what strangers send that is no HTTP is answered, and not written down line by line


@dataclass(frozen=True, slots=True)
class Tls:
    """A server certificate: paths of PEM files."""

    certificate: str
    key: str


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0 takes a free one. Raises `ConfigError` when the address cannot be used."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"{host} is not an address of this machine ({error.strerror})") from error
    try:
        if sys.platform != "win32":  # there the option would let a second program take the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(256)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        hint = "Choose another port, or 0 for any free one."
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror})", hint=hint) from error
    return sock


def origin_of(sock: socket.socket, *, host: str | None = None, tls: bool = False) -> str:
    """``http://HOST:PORT`` of a bound socket, as clients on this machine reach it."""
    address = sock.getsockname()
    name = host or str(address[0])
    return f"{'https' if tls else 'http'}://{f'[{name}]' if ':' in name else name}:{address[1]}"


class _Connection(H11Protocol):
    """uvicorn's, with a limit on how long a head may take, and without a line in the log for each stranger."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _log
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and not self._busy:
            self._timer = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)
        super().data_received(data)
        if self._busy:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered: from then on its body has a limit of its own, the guard's."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._busy:
            self.transport.abort()


class HttpServer(uvicorn.Server):
    """uvicorn on a socket that is bound already; `stop` ends it."""

    def __init__(self, app: ASGIApp, *, tls: Tls | None = None, grace: float = GRACE) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # nobody is believed about who the client is
                server_header=False,
                date_header=False,
                reset_contextvars=True,  # a request must not see the run that happens to hold the server
                timeout_keep_alive=KEEP_ALIVE,
                ssl_certfile=tls.certificate if tls else None,
                ssl_keyfile=tls.key if tls else None,
            )
        )
        self._grace = grace
        self._ready = anyio.Event()
        self._stopping = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals belong to the program, not to a server inside it."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for `stop` instead of looking ten times a second whether it was called."""
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, let open requests finish within the grace, cancel the rest."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with anyio.move_on_after(self._grace):
            while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  uvicorn tells nobody
                await asyncio.sleep(0.005)
        for task in list(self.server_state.tasks):
            task.cancel()

    def stop(self) -> None:
        self._stopping.set()

    async def run_until_stopped(self, sock: socket.socket) -> None:
        """Serve on the socket, and close it in the end. Cancelling is not stopping: call `stop`."""
        with sock, anyio.CancelScope(shield=True):
            await self.serve(sockets=[sock])

    async def wait_ready(self) -> None:
        await self._ready.wait()


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    sock: socket.socket,
    *,
    beside: Sequence[contextlib.AbstractAsyncContextManager[None]] = (),
    tls: Tls | None = None,
    grace: float = GRACE,
) -> AsyncGenerator[None]:
    """Serve an app on a bound socket while the body runs, with ``beside`` entered first and left last.

    All of it lives in a task and context of its own: what the body raises comes out as it is and not in a group, and no
    request sees the context variables of the program that holds the server.
    """
    http, stop, ready = HttpServer(app, tls=tls, grace=grace), anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for context in beside:
                await stack.enter_async_context(context)
            async with anyio.create_task_group() as group:
                group.start_soon(http.run_until_stopped, sock)
                await http.wait_ready()
                ready.set()
                await stop.wait()
                http.stop()

    task = asyncio.create_task(hold(), name="http server", context=contextvars.Context())

    def ended(task: asyncio.Task[None]) -> None:
        ready.set()
        if not task.cancelled():
            task.exception()  # so that it counts as seen when the body has raised something else

    task.add_done_callback(ended)
    try:
        await ready.wait()
        if task.done():
            await task  # it failed to start: raise why
        yield
    finally:
        stop.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        sock.close()
    await task


def announce_on_stderr(url: str) -> None:
    print(f"listening on {url}", file=sys.stderr, flush=True)  # noqa: T201  what a command says about itself


async def serve_http(
    server: ToolServer,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    guard: Callable[[str], Wrap] | None,
    tls: Tls | None = None,
    announce: Callable[[str], None] = announce_on_stderr,
) -> None:
    """Serve one server at ``/mcp`` until SIGINT, SIGTERM or cancellation.

    ``guard`` is given the endpoint's URL, which is known only once the port is, and returns what wraps the app.
    ``None`` is for tests and refuses any address but a loopback one. ``announce`` gets the URL when requests are
    answered; the command line writes it to stderr.
    """
    if guard is None and not is_loopback(host):
        raise ConfigError(
            f"without a guard, `{server.name}` is not served on {host}", hint="Use 127.0.0.1, or give a guard."
        )
    sock = bind(host, port)
    url = f"{origin_of(sock, host=host, tls=tls is not None)}/mcp"
    with sock:
        endpoint = server.asgi(guard=None if guard is None else guard(url))
        with stop_signals() as stop:
            async with serving(endpoint, sock, beside=[endpoint.running()], tls=tls):
                announce(url)
                await stop.wait()


@contextlib.contextmanager
def stop_signals() -> Generator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets while the body runs. In a thread that is not the main one nothing sets it.

    Enter it before anybody is told that the server is up: whoever is told may stop it at once.
    """
    stop = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

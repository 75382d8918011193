"""One server over HTTP as a program of its own: ``retinue mcp serve NAME --http HOST:PORT``.

The issuer's key and the client registry are files in the state folder, so tokens and clients outlive a restart. The
user of this machine is a client with a key file that nobody else can read (mode 0600): to be on the same machine proves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from retinue.database.base import Database
from retinue.errors import ConfigError
from retinue.system import ensure_private_dir

from ..auth import urls
from ..auth.client import Credentials
from ..auth.guard import TokenKinds
from ..auth.issuer import Client, ClientRegistry, FileClients
from ..auth.keys import load_or_create_client_key, load_or_create_key, public_jwks
from ..auth.replays import DatabaseReplayStore, MemoryReplayStore
from .kit import Tls, ToolServer, bind, origin_of, serving
from .kit.http import announce_on_stderr, stop_signals
from .site import ISSUER_PATH, OnDecision, OnToken, Site

LOCAL_CLIENT: Final = "local"
"""The client id of this machine's user."""

PATH: Final = "/mcp"


class AuthFiles:
    """Where the state folder keeps keys and clients."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "auth"
        self.issuer_key = self.folder / "issuer-key.json"
        self.clients = self.folder / "clients.json"
        self.client_key = self.folder / "client-key.json"

    def prepare(self) -> AuthFiles:
        ensure_private_dir(self.folder)
        return self


def local_credentials(state: Path, url: str) -> Credentials:
    """The local user's credentials for a server that `serve_one_http` serves at ``url`` with the same state folder."""
    files = AuthFiles(state).prepare()
    return Credentials(urls.origin(url) + ISSUER_PATH, LOCAL_CLIENT, load_or_create_client_key(files.client_key))


async def serve_one_http(
    server: ToolServer,
    host: str,
    port: int,
    state: Path,
    *,
    database: Database | None = None,
    external_url: str | None = None,
    tls: Tls | None = None,
    tokens: TokenKinds = "dpop",
    on_decision: OnDecision | None = None,
    on_token: OnToken | None = None,
    announce: Callable[[str], None] = announce_on_stderr,
) -> None:
    """Serve a server at ``/mcp`` with an issuer beside it, until SIGINT, SIGTERM or cancellation.

    ``external_url`` is the origin by which clients reach it through a proxy that ends TLS. Without it, an address other
    than loopback needs ``tls``. With a ``database`` used proofs are remembered there, for all processes on it and
    across restarts; without one, in this process. ``announce`` is told the endpoint's URL; by default stderr is.
    """
    if external_url is not None and urls.split(urls.require_secure(external_url, "the external URL")).path.strip("/"):
        raise ConfigError(f"the external URL has a path: {external_url}", hint="Give scheme and host alone.")
    if external_url is None and not urls.is_loopback(host) and (tls is None or host in ("", "0.0.0.0", "::")):  # noqa: S104
        raise ConfigError(
            f"`{server.name}` is not served on {host or 'every address'} without TLS and a name",
            hint="Use 127.0.0.1; or give a certificate and a host name, or the external https:// URL of a TLS proxy.",
        )
    files = AuthFiles(state).prepare()
    clients = _WithLocal(FileClients(files.clients))
    with bind(host, port) as sock:
        site = Site(
            external_url or origin_of(sock, host=host, tls=tls is not None),
            keys=load_or_create_key(files.issuer_key),
            clients=clients,
            replays=MemoryReplayStore() if database is None else DatabaseReplayStore(database),
            tokens=tokens,
            on_decision=on_decision,
            on_token=on_token,
        )
        url = site.add(server, PATH)
        public = public_jwks(load_or_create_client_key(files.client_key))
        clients.local = Client(LOCAL_CLIENT, public, {url: frozenset(server.scopes_supported)})
        with stop_signals() as stop:
            async with serving(site, sock, beside=site.running(), tls=tls):
                announce(url)
                await stop.wait()


class _WithLocal:
    """The registered clients, and the local user, who may do at this server whatever it offers.

    The local user is not in the registry's file: the key has a file of its own, and the server may have another address
    at each start.
    """

    def __init__(self, others: ClientRegistry) -> None:
        self._others = others
        self.local: Client | None = None

    def find(self, client_id: str) -> Client | None:
        return self.local if client_id == LOCAL_CLIENT else self._others.find(client_id)

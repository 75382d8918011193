"""Who may ask the issuer for tokens, with which keys, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import orjson

from retinue.errors import ConfigError
from retinue.system import check_private, ensure_private_dir, write_private

from .. import strict_json
from ..keys import PRIVATE_MEMBERS, LocalKeys
from ..tokens import parse_scope


@dataclass(frozen=True)
class Client:
    """A registered client (RFC 7591 §2, ``private_key_jwt`` alone).

    ``jwks`` is its public JWK set; ``scopes`` says, for each resource, what it may ask for.
    """

    id: str
    jwks: Mapping[str, Any]
    scopes: Mapping[str, frozenset[str]]
    keys: LocalKeys = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.id or len(self.id) > 256 or not self.id.isprintable():
            raise ConfigError("a client needs a printable id of at most 256 characters")
        entries = self.jwks.get("keys")
        listed = cast("list[object]", entries) if isinstance(entries, list) else []
        if any(isinstance(entry, dict) and PRIVATE_MEMBERS & cast("dict[str, Any]", entry).keys() for entry in listed):
            raise ConfigError(f"client {self.id} is registered with a private key", hint="Register the public half.")
        try:
            keys = LocalKeys(self.jwks)
        except ValueError as error:
            raise ConfigError(f"client {self.id} has no key set: {error}") from None
        object.__setattr__(self, "keys", keys)


class ClientRegistry(Protocol):
    """Looks clients up by id. It is asked with whatever a request says, so an unknown id is None and not an error."""

    def find(self, client_id: str) -> Client | None: ...


class MemoryClients:
    """Clients of one process."""

    def __init__(self, clients: Iterable[Client] = ()) -> None:
        self._clients = {client.id: client for client in clients}

    def add(self, client: Client) -> None:
        """Register a client, in place of one with the same id."""
        self._clients[client.id] = client

    def find(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)


class FileClients:
    """Clients in a JSON file with mode 0600, read again when it has changed.

        {"clients": [{"id": "…", "jwks": {"keys": […]}, "scopes": {"https://host/mcp": ["library:read"]}}]}

    The file holds no secret, but whoever can write it can let himself in. Raises `ConfigError` when it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clients: dict[str, Client] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._refresh()

    def find(self, client_id: str) -> Client | None:
        self._refresh()
        return self._clients.get(client_id)

    def add(self, client: Client) -> None:
        """Register a client, in place of one with the same id, for every process that reads the file."""
        self._refresh()
        clients = {**self._clients, client.id: client}
        ensure_private_dir(self._path.parent)
        write_private(self._path, _dump(clients.values()))
        self._refresh()

    def _refresh(self) -> None:
        try:
            info = self._path.stat()
        except FileNotFoundError:
            self._clients, self._stamp = {}, None
            return
        stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
        if stamp == self._stamp:
            return
        check_private(self._path)
        self._clients = _parse(self._path.read_bytes(), self._path)
        self._stamp = stamp


def _parse(data: bytes, path: Path) -> dict[str, Client]:
    try:
        entries = cast("list[dict[str, Any]]", strict_json.loads_object(data)["clients"])
        clients = [
            Client(
                id=entry["id"],
                jwks=entry["jwks"],
                scopes={
                    resource: parse_scope(" ".join(scopes))
                    for resource, scopes in cast("dict[str, list[str]]", entry["scopes"]).items()
                },
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is not a list of clients", hint="See docs/auth.md for its form.") from None
    return {client.id: client for client in clients}


def _dump(clients: Iterable[Client]) -> bytes:
    entries = [
        {
            "id": client.id,
            "jwks": dict(client.jwks),
            "scopes": {resource: sorted(scopes) for resource, scopes in client.scopes.items()},
        }
        for client in clients
    ]
    return orjson.dumps({"clients": entries}, option=orjson.OPT_INDENT_2)

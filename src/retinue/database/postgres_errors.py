"""Postgres's errors in Retinue's words. Its own text is left out of them: it can hold values and SQL."""

from __future__ import annotations

import psycopg
from psycopg.pq import ConnStatus

from retinue.database.postgres_url import Address
from retinue.errors import (
    DatabaseBusy,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnreachable,
    SchemaTooOld,
)

CONFLICTS = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected: the same work, done again, goes well."""

_GONE = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")
"""The connection, or the server, goes away: exceptions of connections, shutdowns, starts, timeouts of idle sessions."""

_TIMED_OUT = "the database {place} stayed locked by another process"
_BY_STATE: tuple[tuple[str, type[DatabaseError], str, str | None], ...] = (
    ("25006", DatabaseReadOnly, "the database {place} is read-only", "A standby cannot be written: name the primary."),
    ("42501", DatabaseReadOnly, "the role has no rights on what the database {place} holds",
     "Give it rights on the schema and its tables, or run `retinue db upgrade` with this role."),
    ("42P01", SchemaTooOld, "the database {place} lacks tables of Retinue", None),
    ("3F000", SchemaTooOld, "the database {place} lacks the schema of Retinue", None),
    ("53100", DatabaseFull, "no space is left for the database {place}", None),
    ("53300", DatabaseBusy, "the database {place} has no connection left",
     "Raise max_connections, or run fewer processes: each needs up to eight."),
    ("53", DatabaseBusy, "the server of the database {place} is out of resources", "Look at the server's log."),
    ("55P03", DatabaseBusy, _TIMED_OUT, None),
    ("57014", DatabaseBusy, "the database {place} took too long", "The role's statement_timeout ended the statement."),
    ("40", DatabaseBusy, "other processes kept changing what this one was about to change", None),
    ("XX001", DatabaseCorrupt, "the database {place} is damaged", "Restore a backup."),
    ("XX002", DatabaseCorrupt, "an index of the database {place} is damaged", "REINDEX it, or restore a backup."),
)  # fmt: skip

_AT_THE_DOOR: tuple[tuple[str, str], ...] = (
    ("authentication failed", "Correct the user and the password: in the URL, in PGPASSFILE or in ~/.pgpass."),
    ("no password supplied", "Give a password: in the URL, in PGPASSFILE or in ~/.pgpass."),
    ("no pg_hba.conf entry", "The server's pg_hba.conf lets nobody in who comes so."),
    ("does not exist", "Create the role and the database first; `retinue db upgrade` makes the tables."),
    ("too many clients", "Raise max_connections, or run fewer processes: each needs up to eight."),
    ("remaining connection slots", "Raise max_connections, or run fewer processes: each needs up to eight."),
)


def is_lost(error: psycopg.Error, connection: psycopg.Connection | None) -> bool:
    """Whether this is the end of the connection rather than of a statement."""
    if connection is None or connection.closed or connection.pgconn.status != ConnStatus.OK:
        return True
    return (error.sqlstate or "").startswith(_GONE)


def lost(address: Address, *, unknown: bool = False) -> DatabaseUnreachable:
    """The connection broke and did not come back. ``unknown``: in the middle of a commit."""
    what = f"the connection to {address.shown} was lost"
    if not unknown:
        return DatabaseUnreachable(what)
    return DatabaseUnreachable(
        f"{what} during a commit, and whether it took place is not known",
        hint="Start the server; `retinue recover` goes on from what it has kept.",
        outcome="unknown",
    )


def refused(error: psycopg.Error, address: Address) -> DatabaseError:
    """A connection could not be made."""
    said = address.without_secrets(str(error)).strip().splitlines()
    why = said[-1].strip() if said else type(error).__name__
    hint = next((hint for text, hint in _AT_THE_DOOR if text in why), None)
    busy = "too many clients" in why or "remaining connection slots" in why
    kind = DatabaseBusy if busy else DatabaseUnreachable
    return kind(f"the database {address.shown} cannot be reached: {why}"[:600], hint=hint)


def translate(error: psycopg.Error, address: Address, *, reading: bool = False) -> DatabaseError:
    """The typed error of a statement; ``reading``: in a transaction that may not write."""
    state = error.sqlstate or ""
    if reading and state == "25006":
        return DatabaseReadOnly("a read tried to write", hint="Use write() for a unit of work that changes rows.")
    for prefix, kind, text, hint in _BY_STATE:
        if state.startswith(prefix):
            return kind(text.format(place=address.shown), hint=hint, postgres=state)
    name = state or type(error).__name__
    return DatabaseError(
        f"the database {address.shown} failed: {name}", hint="The server's log tells more.", postgres=name
    )

"""A database by its URL. What only Postgres needs is imported for Postgres alone."""

from __future__ import annotations

from retinue.database.base import Database
from retinue.errors import ConfigError

_POSTGRES = ("postgresql://", "postgres://")


def is_postgres(url: str) -> bool:
    return url.startswith(_POSTGRES)


def sqlite_path(url: str) -> str:
    """The file of a SQLite database: a path, or one behind ``sqlite://``. Raises `ConfigError` for other URLs."""
    path = url.removeprefix("sqlite://")
    if "://" in path:
        raise ConfigError(
            f"a database of the kind {path.split(':', 1)[0]} is not supported",
            hint="Name a file, or a URL that begins with postgresql://.",
        )
    return path


async def open_database(url: str, *, create: bool = True) -> Database:
    """Open a SQLite file or a Postgres database. ``create`` makes a file that is missing.

    Raises `ConfigError` for another URL, and what `SQLiteDatabase.open` and `PostgresDatabase.open` raise.
    """
    if is_postgres(url):
        require_driver()
        from retinue.database.postgres import PostgresDatabase

        return await PostgresDatabase.open(url)
    from retinue.database.sqlite import SQLiteDatabase

    return await SQLiteDatabase.open(sqlite_path(url), create=create)


def require_driver() -> None:
    """Raise `ConfigError` where the extra is not installed."""
    try:
        import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]  # only whether it is there
    except ImportError as error:
        raise ConfigError(
            "Postgres needs a driver that is not installed", hint="Install retinue with it: retinue[postgres]."
        ) from error

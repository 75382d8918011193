"""One writer a run: a lease in database time, and a fence that every write passes.

A lease is (owner, epoch, expiry). Taking it raises the epoch, so a process that was frozen or cut off finds, at its
next write, that the epoch is not its own or the time is over, and changes nothing. A process's death is known where
its lock is gone (a file's on SQLite, an advisory one on Postgres), so its runs can be taken over at once; a live one
keeps its lease until it lapses.

The run's row is the run's lock: every transaction that reads in order to write about a run takes it first. Where
members of a run made runs of their own, its row comes before theirs, and answers to the questions of all of them take
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retinue.database.base import Transaction
from retinue.errors import LeaseLost, RunBusy, RunNotFound

LEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Lease:
    run: str
    owner: str
    epoch: int
    seconds: float = LEASE_SECONDS


def acquire(tx: Transaction, run: str, *, owner: str, seconds: float, alive: Callable[[str], bool | None]) -> Lease:
    """Take the lease of a run. Raises `RunBusy` while another owner holds it."""
    row = tx.one("SELECT owner, epoch, lease_until FROM runs WHERE id = ?", (run,), lock=True)
    if row is None:
        raise RunNotFound(f"there is no run {run}")
    holder, epoch, until = row
    # A lease from further in the future than any lease lasts was written by a clock that has since gone back.
    lapsed = until is None or until <= tx.now or until > tx.now + 2 * seconds
    if holder is not None and not lapsed and alive(holder) is not False:
        raise RunBusy(f"run {run[:8]} is being executed by another process ({holder})", owner=holder)
    tx.execute(
        "UPDATE runs SET owner = ?, epoch = ?, lease_until = ? WHERE id = ?", (owner, epoch + 1, tx.now + seconds, run)
    )
    return Lease(run, owner, epoch + 1, seconds)


def check(tx: Transaction, lease: Lease) -> None:
    """The fence: raise `LeaseLost` unless this lease holds, and goes on holding until the transaction ends."""
    row = tx.one(
        "SELECT 1 FROM runs WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ?",
        (lease.run, lease.owner, lease.epoch, tx.now),
        lock=True,
    )
    if row is None:
        raise lost(lease)


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"this process no longer owns run {lease.run[:8]}; it wrote nothing", epoch=lease.epoch)


def renew(tx: Transaction, lease: Lease, *, active: float) -> bool | None:
    """Prolong a lease that still holds. None: it does not; otherwise whether somebody asked to cancel the run.

    ``active`` is the run's seconds of execution so far, kept so that a crash does not give them back.
    """
    row = tx.one(
        "UPDATE runs SET lease_until = ?, active = ? WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? "
        "RETURNING cancelling",
        (tx.now + lease.seconds, active, lease.run, lease.owner, lease.epoch, tx.now),
    )
    return None if row is None else bool(row[0])

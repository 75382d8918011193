"""What holds of every database of runs at every time, as queries; and of the effects that runs had."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from retinue.database.base import Transaction

QUERIES = {
    "a run's events are numbered from 1 without gaps": """
        SELECT r.id FROM runs r LEFT JOIN events e ON e.run = r.id GROUP BY r.id, r.seq
        HAVING count(e.seq) <> r.seq OR coalesce(min(e.seq), 1) <> 1 OR coalesce(max(e.seq), 0) <> r.seq""",
    "a run ends once, with its last event": """
        SELECT r.id FROM runs r JOIN events e ON e.run = r.id
        WHERE e.type IN ('run.done', 'run.failed', 'run.refused', 'run.cancelled')
        AND (e.seq <> r.seq OR e.type <> 'run.' || r.status)""",
    "a run that is over has an event that says so": """
        SELECT r.id FROM runs r WHERE r.status IN ('done', 'failed', 'refused', 'cancelled') AND NOT EXISTS
        (SELECT 1 FROM events e WHERE e.run = r.id AND e.seq = r.seq AND e.type = 'run.' || r.status)""",
    "a run that rests has no owner": """
        SELECT id FROM runs WHERE status <> 'running' AND owner IS NOT NULL AND root IS NULL""",
    "every result has its intent": """
        SELECT res.run FROM journal res WHERE res.key LIKE 'result:%' AND NOT EXISTS
        (SELECT 1 FROM journal i WHERE i.run = res.run AND i.path = res.path
         AND i.key = 'intent:' || substr(res.key, 8))""",
    "a finished tool call is told once": """
        SELECT e.run FROM events e JOIN runs r ON r.id = e.run WHERE e.type = 'tool.finished'
        GROUP BY e.run HAVING count(*) >
        (SELECT count(*) FROM journal j WHERE j.run = e.run AND j.key LIKE 'result:%')""",
    "a run that is over has no open question": """
        SELECT q.id FROM questions q JOIN runs r ON r.id = q.run
        WHERE q.status = 'open' AND r.status IN ('done', 'failed', 'refused', 'cancelled')""",
}


def violations(tx: Transaction) -> list[str]:
    """Each invariant that does not hold, with the first run that breaks it."""
    return [f"{what}: {row[0]}" for what, sql in QUERIES.items() if (row := tx.one(sql)) is not None]


def effects(log: Path) -> Counter[tuple[str, str]]:
    """(what, for whom) of every effect, each key counted once: whoever is called again with a key does nothing."""
    lines = log.read_text().splitlines() if log.exists() else []
    keyed = {line for line in lines if len(line.split()) == 3}
    plain = [line for line in lines if len(line.split()) == 2]
    found: Counter[tuple[str, str]] = Counter()
    for line in [*keyed, *plain]:
        what, who = line.split()[:2]
        found[what, who] += 1
    return found


def doubled(log: Path, runs: int) -> list[str]:
    """Effects that are missing or came twice, where each run notes and sends once."""
    found = effects(log)
    wrong = [f"{what} for {who}: {times} times" for (what, who), times in found.items() if times != 1]
    for what in ("note", "send"):
        if (there := sum(1 for kind, _ in found if kind == what)) != runs:
            wrong.append(f"{there} of {runs} runs have had their {what}")
    return wrong

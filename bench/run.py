"""The workloads side by side: ``scripts/bench [--rounds N] [--only w2,w3]``. Without --only: w1, w2, w3.

Each cell is a process of its own, the subjects take turns, and what counts is the ratio to the first subject of the
same round (the hand-written loop where it can do the work, else LangGraph): absolute times depend on the machine and on
what else it does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

SUBJECTS = {
    "sdk": "hand-written loop, anthropic SDK",
    "langgraph": "LangGraph raw",
    "memory": "Retinue, in memory",
    "sqlite": "Retinue, SQLite file",
    "postgres": "Retinue, Postgres on loopback",
}
WORKLOADS = {
    "w1": "cold start: imported and ready for a first model call",
    "w2": "one agent, one tool, two model calls, no latency",
    "w3": "the same, 200 runs at once, 50 ms of latency a call",
    "w4": "a supervisor and three specialists in parallel, eight model calls",
    "w6": "one call that a person approves: paused and resumed, on SQLite",
    "w7": "memory of a run that waits for a model",
    "growth": "conversations of 10, 100 and 1000 turns on SQLite: a turn's CPU (ms) and bytes (kB)",
}
DEFAULT = ("w1", "w2", "w3")
WITH_A_FILE = ("w6", "growth")
"""Only who keeps state on disk can do these."""


POSTGRES = "BENCH_POSTGRES"
"""The variable that tells the workers where the server is; without it, nothing is measured there."""


def subjects_of(workload: str) -> list[str]:
    if workload in WITH_A_FILE:
        return ["langgraph", "sqlite"]
    return [subject for subject in SUBJECTS if subject != "postgres" or POSTGRES in os.environ]


def measure(rounds: int, only: list[str], port: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for round_ in range(rounds):
        for workload in only:
            for subject in subjects_of(workload):
                with tempfile.TemporaryDirectory() as folder:
                    done = subprocess.run(
                        [sys.executable, "-m", "bench.worker", subject, workload, port, folder],
                        capture_output=True,
                        text=True,
                        timeout=180,
                    )
                if done.returncode or not done.stdout:
                    raise SystemExit(f"{subject} {workload} failed:\n{done.stderr[-2000:]}")
                found[workload, subject].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {round_ + 1}/{rounds} {workload} {subject}", file=sys.stderr)
    return found


def table(found: dict[tuple[str, str], list[dict[str, Any]]], only: list[str]) -> str:
    lines: list[str] = []
    for workload in only:
        subjects = subjects_of(workload)
        base = found[workload, subjects[0]]
        metrics = [name for name in base[0] if name not in ("subject", "workload")]
        lines += ["", f"{workload.upper()}: {WORKLOADS[workload]}"]
        lines.append(f"  {'':36}" + "".join(f"{name:>13}{'x':>7}" for name in metrics))
        for subject in subjects:
            title, cells = SUBJECTS[subject], ""
            for name in metrics:
                best = max if name == "runs_s" else min
                value = best(row[name] for row in found[workload, subject])
                # The ratio of each round, then their median: both sides saw the same machine.
                ratios = [r[name] / b[name] for r, b in zip(found[workload, subject], base, strict=True)]
                cells += f"{value:13.3g}{statistics.median(ratios):7.2f}"
            lines.append(f"  {title:36}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(DEFAULT), help="comma-separated: " + ", ".join(WORKLOADS))
    parser.add_argument("--postgres", action="store_true", help="measure Retinue on Postgres, too: a server is started")
    options = parser.parse_args()
    only = options.only.split(",")
    if unknown := sorted(set(only) - set(WORKLOADS)):
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    with ExitStack() as stack:
        if options.postgres:
            from tests.support.postgres import running

            os.environ[POSTGRES] = stack.enter_context(running(durable=True)).new_schema()
        server = subprocess.Popen([sys.executable, "-m", "bench.scripted_llm"], stdout=subprocess.PIPE, text=True)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        found = measure(options.rounds, only, server.stdout.readline().strip())
    print(f"Ratios (x) are to the first line of the same round; {os.cpu_count()} cores.")
    print(table(found, only))


if __name__ == "__main__":
    main()

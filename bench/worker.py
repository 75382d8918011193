"""One workload of one subject in a process of its own; prints one line of JSON.

``python -m bench.worker SUBJECT WORKLOAD PORT [FOLDER]``; subjects sdk, langgraph, memory, sqlite; workloads w1, w2, w3.
"""

import time

WALL, CPU = time.perf_counter(), time.process_time()

import asyncio  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

BATCHES = 12
CONCURRENT = 200


def rss_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def build(subject: str, url: str, folder: str) -> Any:
    if subject in ("memory", "sqlite"):
        module = importlib.import_module("bench.yardstick_retinue")
        return module.build_single(url, ":memory:" if subject == "memory" else f"{folder}/bench.db")
    return importlib.import_module(f"bench.subject_{subject}").build_single(url)


async def sequential(run: Any) -> dict[str, float]:
    """CPU and wall milliseconds of one run, the best of twelve batches."""
    for _ in range(12):
        assert "done 3" in await run()
    begun = time.perf_counter()
    for _ in range(3):
        await run()
    count = max(3, min(150, int(0.12 / ((time.perf_counter() - begun) / 3))))
    cpus: list[float] = []
    walls: list[float] = []
    for _ in range(BATCHES):
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(count):
            await run()
        cpus.append((time.process_time() - cpu) / count * 1e3)
        walls.append((time.perf_counter() - wall) / count * 1e3)
    return {"cpu_ms": min(cpus), "wall_ms": min(walls)}


async def concurrent(run: Any) -> dict[str, float]:
    """200 workers in a closed loop against a model that takes 50 ms."""
    for _ in range(5):
        await run()
    await asyncio.gather(*(run() for _ in range(50)))

    async def worker() -> None:
        for _ in range(4):
            assert "done 3" in await run()

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    runs = CONCURRENT * 4
    return {"cpu_ms": cpu / runs * 1e3, "runs_s": runs / wall, "rss_mb": rss_mb()}


def main() -> None:
    subject, workload, port, folder = sys.argv[1:5]
    logging.disable(logging.WARNING)
    os.environ["LANGSMITH_TRACING"] = "false"
    root = f"http://127.0.0.1:{port}"
    if workload == "w1":
        build(subject, f"{root}/0", folder)
        result = {"cpu_ms": (time.process_time() - CPU) * 1e3, "wall_ms": (time.perf_counter() - WALL) * 1e3}
        result["rss_mb"] = rss_mb()
    elif workload == "w2":
        result = asyncio.run(sequential(build(subject, f"{root}/0", folder)))
    else:
        result = asyncio.run(concurrent(build(subject, f"{root}/50", folder)))
    print(json.dumps({"subject": subject, "workload": workload, **result}), flush=True)
    os._exit(0)


main()

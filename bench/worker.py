"""One workload of one subject in a process of its own; prints one line of JSON.

``python -m bench.worker SUBJECT WORKLOAD PORT FOLDER``. Subjects: sdk, langgraph, memory, sqlite, and postgres, whose
database the variable ``BENCH_POSTGRES`` names. Workloads: see `bench.run`.
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
from contextlib import AsyncExitStack  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

BATCHES = 12
CONCURRENT = 200
IN_FLIGHT = 300
TURNS = (10, 100, 1000)
RETINUE = ("memory", "sqlite", "postgres")


def rss_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def module_of(subject: str) -> Any:
    name = "yardstick_retinue" if subject in RETINUE else f"subject_{subject}"
    return importlib.import_module(f"bench.{name}")


def build(subject: str, what: str, url: str, folder: str) -> Any:
    builder = getattr(module_of(subject), what)
    if subject not in RETINUE:
        return builder(url)
    places = {"memory": ":memory:", "sqlite": f"{folder}/bench.db", "postgres": os.environ.get("BENCH_POSTGRES", "")}
    return builder(url, places[subject])


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


async def paused(subject: str, url: str, folder: str) -> dict[str, float]:
    """Runs that stop for a person and are resumed: their cost, and what each leaves on disk."""
    path, number = Path(folder) / "bench.db", 0
    async with AsyncExitStack() as stack:
        pause, resume = await module_of(subject).build_paused(url, str(path), stack)

        async def run() -> str:
            nonlocal number
            number += 1
            await pause(f"r{number}")
            return await resume(f"r{number}")

        result = await sequential(run)
    return {**result, "kb_run": size(path) / number / 1e3}


async def parked(subject: str, url: str, slow: str, folder: str) -> dict[str, float]:
    """Memory of a run that waits for a slow model."""
    warm = build(subject, "build_single", url, folder)
    for _ in range(20):
        await warm()
    run = build(subject, "build_single", slow, folder)
    gc.collect()
    before = rss_mb()
    tasks = [asyncio.ensure_future(run()) for _ in range(IN_FLIGHT)]
    await asyncio.wait(tasks, timeout=2.5)
    gc.collect()
    return {"kb_in_flight": (rss_mb() - before) * 1000 / IN_FLIGHT}


async def growth(subject: str, url: str, folder: str) -> dict[str, float]:
    """What one turn costs and keeps in conversations of ten, a hundred and a thousand."""
    result: dict[str, float] = {}
    for turns in TURNS:
        path = Path(folder) / f"turns{turns}.db"
        async with AsyncExitStack() as stack:
            run = await module_of(subject).build_turns(url, turns, str(path), stack)
            cpu = time.process_time()
            assert "done 3" in await run()
            result[f"cpu_{turns}"] = (time.process_time() - cpu) / turns * 1e3
        result[f"kb_{turns}"] = size(path) / turns / 1e3
    return result


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*") if file.is_file())


def main() -> None:
    subject, workload, port, folder = sys.argv[1:5]
    logging.disable(logging.WARNING)
    os.environ["LANGSMITH_TRACING"] = "false"
    root = f"http://127.0.0.1:{port}"
    match workload:
        case "w1":
            build(subject, "build_single", f"{root}/0", folder)
            result = {"cpu_ms": (time.process_time() - CPU) * 1e3, "wall_ms": (time.perf_counter() - WALL) * 1e3}
            result["rss_mb"] = rss_mb()
        case "w2":
            result = asyncio.run(sequential(build(subject, "build_single", f"{root}/0", folder)))
        case "w3":
            result = asyncio.run(concurrent(build(subject, "build_single", f"{root}/50", folder)))
        case "w4":
            result = asyncio.run(sequential(build(subject, "build_multi", f"{root}/0", folder)))
        case "w6":
            result = asyncio.run(paused(subject, f"{root}/0", folder))
        case "w7":
            result = asyncio.run(parked(subject, f"{root}/0", f"{root}/3000", folder))
        case _:
            result = asyncio.run(growth(subject, f"{root}/0", folder))
    print(json.dumps({"subject": subject, "workload": workload, **result}), flush=True)
    os._exit(0)


main()

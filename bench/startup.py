"""CPU time of starting the command line, beside a bare click program: the least of 15 of each, in one loop.

python bench/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 15

BARE = """
import click

@click.group()
@click.version_option("1")
def main(): ...

@main.command()
def one(): ...

main(prog_name="bare")
"""


def cpu(command: list[str], cwd: str) -> float:
    """Seconds of user and system time of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        python = [sys.executable]
        ours = [*python, "-m", "retinue", "--database", "none.db"]
        commands = {
            "bare click --version": [*python, str(bare), "--version"],
            "retinue --version": [*ours, "--version"],
            "retinue --help": [*ours, "--help"],
            "retinue inbox": [*ours, "inbox"],
        }
        least = dict.fromkeys(commands, float("inf"))
        for _ in range(ROUNDS):
            for name, command in commands.items():
                least[name] = min(least[name], cpu(command, folder))
    bare_seconds = least["bare click --version"]
    for name, seconds in least.items():
        print(f"{name:22} {seconds * 1000:6.0f} ms  {seconds / bare_seconds:5.2f} x")


if __name__ == "__main__":
    main()

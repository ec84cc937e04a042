"""The common parts of the data benchmarks: the origin of a figure, tables, measured processes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def versions(*packages: str) -> str:
    """`ray 2.60.0, datasets …`; a package that is not installed is left out."""
    parts = []
    for package in packages:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def commit() -> str:
    """Short commit of the working tree; `+` where files differ from it."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def memory_gib() -> float:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: what Python knows will do
    return platform.processor() or platform.machine()


def header(title: str, *packages: str, notes: Sequence[str] = ()) -> str:
    """Markdown: what was measured, with which command, on which machine, commit and libraries."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    lines = [
        f"## {title}",
        "",
        f"* command: `python {Path(sys.argv[0]).as_posix()} {' '.join(sys.argv[1:])}`".replace(str(ROOT) + "/", ""),
        f"* machine: {cores} cores ({processor()}), {memory_gib():.0f} GiB, {platform.system()}{load}",
        f"* commit {commit()}, {time.strftime('%Y-%m-%d')}; Python {platform.python_version()}, {versions(*packages)}",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; numbers right, four significant digits."""
    rows = list(rows)
    cells = [[_cell(value) for value in row] for row in rows]
    numbers = [any(not isinstance(row[i], str) for row in rows) for i in range(len(columns))] if rows else []
    widths = [max([len(name), 3, *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    rule = ["-" * (width - 1) + ":" if number else "-" * width for width, number in zip(widths, numbers, strict=True)]
    lines = [list(columns), rule, *cells]
    return "\n".join("| " + " | ".join(_fill(line, widths, numbers)) + " |" for line in lines) + "\n"


def _fill(line: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> list[str]:
    filled = zip(line, widths, numbers, strict=True)
    return [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in filled]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def finish(text: str, out: str | None) -> None:
    """Prints the result, and writes it where `--out` says."""
    print(text)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text, encoding="utf-8")


def parser(description: str | None) -> argparse.ArgumentParser:
    argument_parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    argument_parser.add_argument("--out", metavar="FILE", help="also write the result, as markdown, to this file")
    argument_parser.add_argument("--folder", help="where the data is made and kept; a temporary folder when left out")
    return argument_parser


# ------------------------------------------------------------------------------------------- measured processes


class Memory:
    """The most memory that some processes and their children held together, looked at four times a second.

    Counted are proportional anonymous and shared pages: pages that several processes share count once, and those of
    mapped files, which the system takes back when it needs them, not at all. In MiB; Linux.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids, self._most, self._stopped = pids, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def most(self) -> float:
        self._stopped.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._stopped.wait(0.25):
            self._most = max(self._most, sum(map(_used_mib, _with_children(self._pids))))


def _used_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # it has just ended
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024


def _with_children(pids: Sequence[int]) -> set[int]:
    import psutil

    all_pids = set(pids)
    for pid in pids:
        try:
            all_pids.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return all_pids


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


Work = Sequence[tuple[Sequence[str], dict[str, str]]]
"""Commands (arguments after the interpreter, or with it when the first is a path to one), and environment to add."""


def in_processes(work: Work, timeout: float = 600.0) -> list[Any]:
    """Runs commands at the same time; the JSON that each prints as its last line. Raises on a failed one."""
    return finished(started(work), timeout)


def started(work: Work) -> list[subprocess.Popen]:
    running = []
    for arguments, environment in work:
        command = list(arguments) if Path(arguments[0]).name.startswith("python") else [sys.executable, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, **pipes, env={**os.environ, **environment}))
    return running


def finished(running: Sequence[subprocess.Popen], timeout: float = 600.0) -> list[Any]:
    results = []
    for process in running:
        out, err = process.communicate(timeout=timeout)
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, process.args))} ended with {process.returncode}:\n{err[-3000:]}")
        results.append(json.loads(out.strip().splitlines()[-1]))
    return results


def best_of(times: int, measure: Callable[[], float]) -> float:
    """The smallest of several measurements of a duration: what the work costs where nothing else disturbs it."""
    return min(measure() for _ in range(times))

"""Text files in the log folder of Ray's session on the head node, which the dashboard's Logs page lists."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """Text for one file."""

    text: str
    is_whole: bool = False
    """True if the text takes the place of the file's content; else it comes after that."""


class SessionLogs:
    """Writes files on the head node: here if this is the head node, else by a task there."""

    def __init__(self, session_folder: str) -> None:
        """`session_folder`: of the running Ray session, the same path on all nodes."""
        import ray

        self._folder = str(Path(session_folder) / "logs")
        heads = [
            node["NodeID"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]
        ]
        self._head: str | None = heads[0] if heads else None
        self._is_here = self._head == ray.get_runtime_context().get_node_id()
        self._last_write: Any = None
        """The task that wrote last: files are written in order."""

    def write(self, files: Mapping[str, Text]) -> None:
        """Writes the files, by name."""
        if not files:
            return
        if self._is_here:
            write_files(self._folder, files)
        elif self._head is not None:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            affinity = NodeAffinitySchedulingStrategy(self._head, soft=False)
            task = ray.remote(_write_after).options(num_cpus=0, scheduling_strategy=affinity, enable_task_events=False)
            self._last_write = task.remote(self._last_write, self._folder, dict(files))


def _write_after(previous_write: None, folder: str, files: Mapping[str, Text]) -> None:
    try:
        write_files(folder, files)
    except OSError:  # a full disk, say; else every later task, which waits for this one, would fail with it
        logger.warning("cannot write the sweep's files in %s", folder, exc_info=True)


def write_files(folder: str, files: Mapping[str, Text]) -> None:
    """Writes files into a folder of this machine."""
    for name, content in files.items():
        with open(Path(folder) / name, "w" if content.is_whole else "a", encoding="utf-8") as file:
            file.write(content.text)

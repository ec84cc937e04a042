"""Several workers of an evaluation in one process, which take turns: each runs until it waits for the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from raycodellm.evaluation import isolation
from raycodellm.evaluation import run as runs


def together(num_workers: int, work: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """The value that `work(rank, gather)` returned, or the exception that it raised, for each rank."""
    ended: list[Any] = [None] * num_workers
    told: dict[int, dict[int, Any]] = {}
    turn = threading.Condition()

    def worker(rank: int) -> None:
        num_told = 0

        def gather(mine: Any) -> list[Any]:
            nonlocal num_told
            number, num_told = num_told, num_told + 1
            told.setdefault(number, {})[rank] = mine
            turn.notify_all()
            assert turn.wait_for(lambda: len(told[number]) == num_workers, timeout=500), "a worker waits for ever"
            return [told[number][one] for one in range(num_workers)]

        with turn:
            try:
                ended[rank] = work(rank, gather)
            except BaseException as error:
                ended[rank] = error

    with pytest.MonkeyPatch.context() as patch, isolation.quiet(), isolation.own_randomness():
        # They set what belongs to the process, so that one `with` around all workers takes their place.
        patch.setattr(runs, "quiet", contextlib.nullcontext)
        patch.setattr(runs, "own_randomness", contextlib.nullcontext)
        threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(num_workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return ended

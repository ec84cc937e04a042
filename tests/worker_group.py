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
    results: list[Any] = [None] * num_workers
    values_of_exchange: dict[int, dict[int, Any]] = {}
    turn = threading.Condition()

    def worker(rank: int) -> None:
        num_exchanges = 0

        def gather(own_value: Any) -> list[Any]:
            nonlocal num_exchanges
            number, num_exchanges = num_exchanges, num_exchanges + 1
            values_of_exchange.setdefault(number, {})[rank] = own_value
            turn.notify_all()
            is_whole = turn.wait_for(lambda: len(values_of_exchange[number]) == num_workers, timeout=500)
            assert is_whole, "a worker waits for ever"
            return [values_of_exchange[number][other] for other in range(num_workers)]

        with turn:
            try:
                results[rank] = work(rank, gather)
            except BaseException as error:
                results[rank] = error

    with pytest.MonkeyPatch.context() as patch, isolation.quiet(), isolation.own_randomness():
        # They set what belongs to the process, so that one `with` around all workers takes their place.
        patch.setattr(runs, "quiet", contextlib.nullcontext)
        patch.setattr(runs, "own_randomness", contextlib.nullcontext)
        threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(num_workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results

"""Scores of programs that a model wrote for one task: pass@k from the verdicts on its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm.evaluation.sandbox import NOT_RUN, PASSED

REPORTED_K = (1, 10, 100)
"""The k of pass@k that Chen et al. (2021) report; the number of samples is another."""


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` samples passes (Chen et al. 2021, section 2.1):
    1 - C(n - c, k) / C(n, k). Raises ValueError for fewer than `k` samples."""
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples with {num_passed} passed")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def scores(results: Sequence[str]) -> dict[str, float]:
    """`pass@k` for each k of REPORTED_K and for k = the number of samples, from each sample's result. Samples that were
    not run are left out: with fewer than k others there is no pass@k, and with none `not_run` is 1."""
    ran_results = [result for result in results if result != NOT_RUN]
    ks = sorted({k for k in (*REPORTED_K, len(results)) if k <= len(results)})
    estimates = {
        f"pass@{k}": pass_at_k(len(ran_results), ran_results.count(PASSED), k) for k in ks if k <= len(ran_results)
    }
    return {**estimates, "not_run": float(not ran_results)}

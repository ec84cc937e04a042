"""Log-likelihoods of answers: packs them into trees, runs the model, and computes the logits of the answers alone."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.engine.encoding import TokenPair
from raycodellm.evaluation.engine.key_cache import empty_cache, repeated
from raycodellm.evaluation.engine.token_trees import Limits, Path, TokenTree, batches, common_length, path_of, trees

if TYPE_CHECKING:
    import torch

Likelihood = tuple[float, bool]
"""An answer's log-likelihood after its prompt, in nats, and whether greedy decoding gives that answer."""
Target = tuple[int, int, int]
"""Row and column whose logits predict a token of an answer, and the token."""
_LEAST_PREFIX = 32
"""Least length of a beginning of all prompts that is computed apart, in tokens."""
_WORTH = 0.2
"""Least share of all prompts' tokens that the common beginning must save."""
_MOST_LOGITS = 2**27
"""Logits that one forward pass computes unless one row needs more: 0.5 GiB in float32."""
_LENGTH_STEP = 8
"""Rows of a masked batch are padded to a multiple of this, which GPUs' attention kernels ask for."""


def likelihoods(model: Any, pairs: Sequence[TokenPair], batch_size: int, share: bool) -> list[Likelihood]:
    """The likelihoods of `pairs`. Forward passes, and with them every bit of the results on one kind of machine, depend
    on these arguments alone.

    `batch_size`: a pass holds no more tokens than so many of the longest pairs. `share`: common beginnings are computed
    once, which needs a model that `shares_beginnings`. The softmax is in float32 whatever the model's precision, and
    log-probabilities are summed in 64 bits. Each answer needs a token, each prompt too.
    """
    import torch

    paths = [path_of(pair) for pair in pairs]
    if not paths:
        return []
    with torch.inference_mode():
        prefix = common_prefix([prompt for prompt, _ in pairs]) if share else 0
        rows = trees([*dict.fromkeys(path[prefix:] for path in paths)], share)
        targets_by_answer = _targets_of_answers(
            rows, [path[prefix:] for path in paths], [answer for _, answer in pairs]
        )
        targets_by_row: list[dict[Target, None]] = [{} for _ in rows]
        for target in itertools.chain(*targets_by_answer):
            targets_by_row[target[0]][target] = None
        num_positions = [len({column for _, column, _ in targets}) for targets in targets_by_row]
        longest = max(map(len, paths)) - prefix
        limits = Limits(batch_size * longest, max(1, _MOST_LOGITS // model.config.get_text_config().vocab_size))
        cache = prefix_cache(model, paths[0][:prefix])
        values: dict[Target, Likelihood] = {}
        for batch in batches([row.length for row in rows], num_positions, limits):
            targets = [target for row in batch for target in targets_by_row[row]]
            batch_likelihoods = _target_likelihoods(
                model, rows[batch.start : batch.stop], batch.start, targets, cache, prefix
            )
            values |= zip(targets, batch_likelihoods, strict=True)
    return [summed([values[target] for target in targets]) for targets in targets_by_answer]


def summed(tokens: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of an answer, from the likelihoods of its tokens."""
    return math.fsum(value for value, _ in tokens), all(is_likeliest for _, is_likeliest in tokens)


def _targets_of_answers(
    rows: Sequence[TokenTree], paths: Sequence[Path], answers: Sequence[Sequence[int]]
) -> list[list[Target]]:
    columns_by_path: dict[Path, tuple[int, list[int]]] = {}
    for index, row in enumerate(rows):
        columns_by_path |= {path: (index, row.columns(number)) for number, path in enumerate(row.paths)}
    targets_by_answer = []
    for path, answer in zip(paths, answers, strict=True):
        row_index, path_columns = columns_by_path[path]
        targets_by_answer.append(
            [
                (row_index, *column_and_token)
                for column_and_token in zip(path_columns[-len(answer) :], answer, strict=True)
            ]
        )
    return targets_by_answer


def _target_likelihoods(
    model: Any, rows: Sequence[TokenTree], first: int, targets: Sequence[Target], cache: Any, prefix: int
) -> list[Likelihood]:
    """Log-probability of each target, and whether no token is likelier. `first`: number of the first of `rows`."""

    width = max(row.length for row in rows)
    has_branches = any(len(row.paths) > 1 for row in rows)
    if has_branches:
        width = -(-width // _LENGTH_STEP) * _LENGTH_STEP
    positions = dict.fromkeys((row, column) for row, column, _ in targets)
    numbers_by_position = {position: number for number, position in enumerate(positions)}
    flat = [(row - first) * width + column for row, column in positions]
    inputs = (
        _branched_inputs(model, rows, width, prefix) if has_branches else {"input_ids": _padded_ids(model, rows, width)}
    )
    if prefix:
        inputs["past_key_values"] = repeated(cache, len(rows))
    logits = logits_at(model, flat, {**inputs, "use_cache": bool(prefix)})
    numbers = [numbers_by_position[row, column] for row, column, _ in targets]
    return chosen_of(logits, numbers, [token for _, _, token in targets])


def chosen_of(logits: torch.Tensor, numbers: Sequence[int], tokens: Sequence[int]) -> list[Likelihood]:
    """Log-probability of each token by a row of `logits` [positions, vocabulary], and whether no token is likelier.
    `numbers`: each token's row."""
    import torch

    rows = torch.tensor(list(numbers), dtype=torch.long, device=logits.device)
    columns = torch.tensor(list(tokens), dtype=torch.long, device=logits.device)
    log_probabilities = torch.log_softmax(logits, -1, dtype=torch.float32)
    chosen = log_probabilities[rows, columns].tolist()
    likeliest = (log_probabilities.argmax(-1)[rows] == columns).tolist()
    return [*zip(chosen, likeliest, strict=True)]


def _padded_ids(model: Any, rows: Sequence[TokenTree], width: int) -> torch.Tensor:
    """Token ids [rows, width]; zeros after a row's end, which no token before them sees."""
    import torch

    flat = [[*row.paths[0][: row.trunk], *(token for branch in row.branches for token in branch)] for row in rows]
    return torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in flat], device=model.device)


def _branched_inputs(model: Any, rows: Sequence[TokenTree], width: int, prefix: int) -> dict[str, torch.Tensor]:
    """Inputs of rows with branches: positions [rows, width], and a mask [rows, 1, width, prefix + width] to add to the
    attention's scores."""
    import torch

    branches, positions = [], []
    for row in rows:
        parts = row.branches
        ends = width - row.length
        branches.append([0] * row.trunk + [number for number, part in enumerate(parts, 1) for _ in part] + [-1] * ends)
        branch_positions = [row.trunk + offset for part in parts for offset in range(len(part))]
        positions.append([*range(row.trunk), *branch_positions, *[0] * ends])
    branch = torch.tensor(branches, device=model.device)
    is_same_path = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    is_visible = is_same_path.tril()
    if prefix:
        is_visible = torch.cat([is_visible.new_ones(*is_visible.shape[:2], prefix), is_visible], -1)
    mask = torch.zeros(is_visible.shape, dtype=model.dtype, device=model.device)
    mask.masked_fill_(~is_visible, torch.finfo(model.dtype).min)
    return {
        "input_ids": _padded_ids(model, rows, width),
        "position_ids": torch.tensor(positions, device=model.device) + prefix,
        "attention_mask": mask[:, None],
    }


def logits_at(model: Any, positions: Sequence[int], inputs: Mapping[str, Any]) -> torch.Tensor:
    """Runs the model; returns logits [positions, vocabulary]. `positions`: their numbers in the batch, row by row."""
    import torch

    flat = torch.tensor(list(positions), dtype=torch.long, device=model.device)
    with _only_at(model, flat):
        logits = model(**inputs).logits
    logits = logits.reshape(-1, logits.shape[-1])
    if len(logits) != len(flat):  # the model computes its logits in a way of its own
        logits = logits.index_select(0, flat.to(logits.device))
    return logits


@contextlib.contextmanager
def _only_at(model: Any, flat: torch.Tensor) -> Iterator[None]:
    """Has the model compute the logits of some positions only, [1, positions, vocabulary]. `flat`: their numbers in
    the batch, row by row."""
    head = model.get_output_embeddings()
    if head is None:
        yield
        return

    def keep(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        return (hidden.flatten(0, 1).index_select(0, flat.to(hidden.device))[None], *inputs[1:])

    handle = head.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------------- common beginnings


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, if it is worth computing them apart, else 0. Each prompt keeps a token."""
    distinct = [*dict.fromkeys(map(tuple, prompts))]
    length = min(map(len, distinct)) - 1
    for prompt in distinct[1:]:
        length = common_length(distinct[0][:length], prompt)
    saved = length * (len(distinct) - 1)
    return length if length >= _LEAST_PREFIX and saved >= _WORTH * sum(map(len, distinct)) else 0


def prefix_cache(model: Any, prefix: Sequence[int]) -> Any:
    """The attention's keys and values of a beginning; None for an empty one."""
    import torch

    if not prefix:
        return None
    tokens = torch.tensor([list(prefix)], device=model.device)
    cache = empty_cache()
    logits_at(model, [len(prefix) - 1], {"input_ids": tokens, "past_key_values": cache, "use_cache": True})
    return cache


def shares_beginnings(model: Any) -> bool:
    """True if the model gives the same likelihoods when common beginnings are computed once.

    Asked of the model itself, with a few tokens: models whose attention is not that of plain transformers (a window, a
    bias by distance, a recurrent state) take no mask of this kind, or read it in another way. The answer depends on the
    model alone.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"} or getattr(config, "sliding_window", None) or getattr(config, "alibi", False):
        return False
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    vocab_size = config.vocab_size
    tokens = [(7919 * (number + 3)) % vocab_size for number in range(_LEAST_PREFIX + 36)]
    beginning, first, second = tokens[:_LEAST_PREFIX], tokens[_LEAST_PREFIX:-12], tokens[-12:]
    pairs: list[TokenPair] = [
        (beginning + prompt, answer) for prompt in (first[:6], first[6:14]) for answer in (first[14:], second)
    ]
    wrong_pairs: list[TokenPair] = [(beginning + first[:6] + first[14:], second)]  # what a branch must not see
    try:
        shared = likelihoods(model, pairs, len(pairs), share=True)
    except Exception:  # whatever a model's code raises that was not written for such a mask
        return False
    alone = likelihoods(model, pairs, len(pairs), share=False)
    wrong_difference = abs(likelihoods(model, wrong_pairs, 1, share=False)[0][0] - alone[1][0])
    greatest_difference = max(
        abs(shared_value - alone_value) for (shared_value, _), (alone_value, _) in zip(shared, alone, strict=True)
    )
    return (
        greatest_difference <= 1e-5 * max(abs(value) for value, _ in alone)
        or greatest_difference <= 0.02 * wrong_difference
    )

"""The training loss of a language model: summed over counted tokens, its gradient computed in the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from raycodellm.engine.devices import on_device
from raycodellm.model import sequences_are_whole

IGNORED = -100
"""Label of a token that does not count in the loss."""
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""Logits held at once: 2^20 floats stay in a core's cache; a GPU is faster with larger matrices."""
_PLAIN_HEADS = frozenset(
    {
        "GPT2LMHeadModel",
        "CohereForCausalLM",
        "GPTNeoXForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "OlmoForCausalLM",
        "Olmo2ForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)
"""Models whose logits are exactly `hidden @ weight.T`, times `_logit_scale`: their loss is computed without
transformers' own forward."""

Slope = Callable[[torch.Tensor, torch.Tensor, torch.dtype], tuple[torch.Tensor, torch.Tensor]]
"""(logits, labels as a column, dtype) -> each row's loss in float32, and the gradient of the loss by the logits."""


def _slope_in_place(
    logits: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """A `Slope` in place: without a compiler each operation passes over all logits, and this has the fewest."""
    logits = logits.float()
    top = logits.amax(dim=1, keepdim=True)
    of_label = logits.gather(1, labels)
    total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
    losses = (total.log() + top - of_label).squeeze(1)
    return losses, logits.div_(total).scatter_add_(1, labels, torch.full_like(total, -1.0)).to(dtype)


def _slope_to_fuse(logits: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A `Slope` for a compiler, which fuses the operations into two passes; each change in place would add one."""
    logits = logits.float()
    log_total = torch.logsumexp(logits, dim=1, keepdim=True)
    shares = torch.exp(logits - log_total)
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels
    return (log_total - logits.gather(1, labels)).squeeze(1), torch.where(is_label, shares - 1.0, shares).to(dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of `hidden @ weight.T`, and each row's loss; computes the gradient in the forward pass."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, slope_of: Slope
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32)
        for part in _blocks(hidden, weight):
            rows = hidden[part]
            losses[part], slope = slope_of(rows @ weight.T, labels[part, None], hidden.dtype)
            torch.mm(slope, weight, out=hidden_grad[part])
            if slope.dtype == torch.float32:
                weight_grad.addmm_(slope.T, rows)
            else:
                weight_grad.add_(slope.T @ rows)
        context.save_for_backward(hidden_grad, weight_grad)
        context.weight_dtype = weight.dtype
        context.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(context: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden_grad, weight_grad = context.saved_tensors
        # Scaled in float32: the scale is outside the range of fp16, far below before loss scaling, far above after.
        return (
            (hidden_grad.float() * scale).to(hidden_grad.dtype),
            (weight_grad * scale).to(context.weight_dtype),
            None,
            None,
        )


def _blocks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    """Slices of the rows of `hidden` whose logits are held at once."""
    rows = max(16, LOGITS_AT_ONCE.get(hidden.device.type, 2**26) // len(weight))
    return (slice(start, start + rows) for start in range(0, len(hidden), rows))


class LossHead(nn.Module):
    """Replaces a model's output layer while the model trains; shares its weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.slope_of: Slope = _slope_in_place

    def compile_loss(self) -> None:
        self.slope_of = torch.compile(_slope_to_fuse)

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled():  # under autocast the weight is still in float32
            return _LinearCrossEntropy.apply(hidden, self.weight.to(hidden.dtype), labels, self.slope_of)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for part in _blocks(hidden, self.weight):
            logits = (hidden[part] @ self.weight.T).float()
            losses[part] = nn.functional.cross_entropy(logits, labels[part], reduction="none")
        return losses.sum(), losses


def _logit_scale(config: Any) -> float:
    """The factor of the logits of a model of _PLAIN_HEADS: Cohere multiplies by a number, Granite divides by one."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


class TrainedModel(nn.Module):
    """A language model that outputs its loss: the sum over counted tokens and, without gradient, the sum per row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        head = model.get_output_embeddings()
        self.plain_head = type(model).__name__ in _PLAIN_HEADS and getattr(head, "bias", None) is None
        self.logit_scale = _logit_scale(model.config)
        if self.plain_head:
            model.set_output_embeddings(LossHead(head.weight))

    def compile(self, blocks: Iterable[nn.Module]) -> None:
        """Compiles the loss, and the model's repeated `blocks` one by one: all share the code of the first."""
        for block in blocks:
            block.compile()
        if self.plain_head:
            self.model.get_output_embeddings().compile_loss()

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`labels` in host memory are best: the places of counted tokens are then known without waiting for a GPU."""
        rows, length = tokens.shape
        targets = labels[:, 1:].reshape(-1)  # nothing precedes a sequence's first token
        counted_places = (targets != IGNORED).nonzero().squeeze(1)
        row = counted_places // (length - 1)
        place = on_device(counted_places + row, tokens.device)  # of the token before the counted one, among all rows
        targets = on_device(targets[counted_places], tokens.device)
        if self.plain_head:
            with sequences_are_whole():
                hidden = self.model.base_model(input_ids=tokens, use_cache=False)[0]
            selected = hidden.reshape(rows * length, -1).index_select(0, place)
            if self.logit_scale != 1.0:
                selected = selected * self.logit_scale
            total, losses = self.model.get_output_embeddings()(selected, targets)
        else:
            logits = self.model(input_ids=tokens, use_cache=False).logits
            selected = logits.reshape(rows * length, -1).index_select(0, place).float()
            losses = nn.functional.cross_entropy(selected, targets, reduction="none")
            total = losses.sum()
        per_row = torch.zeros(rows, dtype=torch.float64, device=tokens.device)
        per_row.index_add_(0, on_device(row, tokens.device), losses.detach().double())
        return total, per_row

"""The presets: named architectures with new weights.

| preset | vocabulary | parameters | training FLOPs per token | at sequence length |
|---|---|---|---|---|
| tiny | 4,096 | 0.476 M | 3.25 M | 128 |
| mini | 4,096 | 1.59 M | 10.5 M | 128 |
| midi | 4,096 | 4.14 M | 29.0 M | 256 |
| nano | 4,096 | 9.57 M | 65.3 M | 256 |
| small | 50,257 | 124 M | 968 M | 2,048 |
| 470m | 256,000 | 468 M | 4.42 G | 8,192 |
| 2.8b | 256,000 | 2.82 G | 24.0 G | 8,192 |

All presets have rotary positions, SwiGLU, no biases and tied embeddings. `tiny`, `mini`, `midi`, `nano` and `small` are
Llamas: RMSNorm, and attention before feed-forward. `tiny` to `nano` are a ladder for CPUs; with the vocabulary above,
the embedding has 55, 33, 19 and 11 % of their parameters. `470m` and `2.8b` are the shape class of Aryabumi et al.
(2024, "To Code, or Not To Code"): the paper's vocabulary of 256,000, and attention and feed-forward side by side after
one LayerNorm without bias, which is transformers' Cohere architecture. The paper does not give depth, width, heads, or
the scale of the logits. The presets have usual proportions (heads of 64 and 128, as many for keys as for queries,
feed-forward 2.6 to 2.75 times the width), chosen to meet the paper's two sizes. Their context is the paper's longest
sequence, 8,192, and their logits are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """The shape of a preset."""

    hidden: int
    """Width of the residual stream."""
    layers: int
    heads: int
    feed_forward: int
    """Width inside the SwiGLU block."""
    context: int
    """Longest sequence, in tokens."""
    parallel: bool = False
    """Attention and feed-forward are side by side, after one norm."""

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    def num_parameters(self, vocab_size: int) -> int:
        """Trained parameters; the tied embedding counts once."""
        norms = self.hidden if self.parallel else 2 * self.hidden
        block = 4 * self.hidden**2 + 3 * self.hidden * self.feed_forward + norms
        return vocab_size * self.hidden + self.layers * block + self.hidden


PRESETS: dict[str, Preset] = {
    # Measured on one core, sequences of 128, vocabulary 4096: 4 x 64 trains 15,000 tokens/s, 2 x 96 and 1 x 128 13,700.
    # On another core, tokens per CPU second: tiny 20,100, mini 7,500 (with 2 heads 7,700), midi 3,200 (with 3 heads as
    # many), nano 1,470.
    "tiny": Preset(hidden=64, layers=4, heads=2, feed_forward=192, context=512),
    "mini": Preset(hidden=128, layers=5, heads=4, feed_forward=384, context=512),
    "midi": Preset(hidden=192, layers=7, heads=6, feed_forward=576, context=1024),
    "nano": Preset(hidden=256, layers=10, heads=4, feed_forward=768, context=1024),
    "small": Preset(hidden=768, layers=12, heads=12, feed_forward=2048, context=2048),
    "470m": Preset(hidden=1024, layers=16, heads=16, feed_forward=2816, context=8192, parallel=True),
    "2.8b": Preset(hidden=2560, layers=28, heads=20, feed_forward=6656, context=8192, parallel=True),
}

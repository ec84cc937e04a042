"""A Hugging Face model as evaluations use it: likelihoods of answers, whole texts, and generated answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place
from raycodellm.evaluation.engine.constrained import TextPattern
from raycodellm.evaluation.engine.decoding import Constraint, Decoding, StopWords
from raycodellm.evaluation.engine.encoding import Encoder, TokenPair
from raycodellm.evaluation.engine.generation import Golds, end_tokens, generated_tokens
from raycodellm.evaluation.engine.likelihoods import Likelihood, likelihoods, shares_beginnings
from raycodellm.evaluation.engine.placement import (
    device_or_default,
    memory_of,
    model_errors,
    sharded_over,
    weight_bytes,
    whole_bytes,
)
from raycodellm.evaluation.engine.writer import Writer
from raycodellm.evaluation.workers import Workers
from raycodellm.files import Folder
from raycodellm.identity import hub_commits

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["AnswerLM", "TokenPair", "load_model", "model_files"]


@contextlib.contextmanager
def model_files(model: Folder | Path | str) -> Iterator[str]:
    """Yields a local folder or a name on the hub, with its revision; a folder on an object store is copied until the
    `with` ends. Raises UserError where `model` is neither a folder nor a name."""
    folder = model if isinstance(model, Folder) else Folder(str(model))
    if folder.local is None or folder.local.is_dir():
        with folder.as_local() as path:
            yield str(path)
    elif isinstance(model, str) and hub_commits.folder_of(model) is None:
        yield model
    else:
        hint = nearest_place(str(folder))
        raise UserError(f"there is no model folder {str(folder)!r} with config.json and safetensors; {hint}")


def load_model(
    files: str,
    batch_size: int,
    device: str | None,
    max_memory: Mapping[int | str, int] | None = None,
    offload_folder: str | None = None,
) -> AnswerLM:
    """Loads the model and tokenizer of a folder or hub name; raises UserError where their files cannot be loaded.

    `max_memory`: bytes of each GPU, and of `cpu`, over which the model is sharded layer by layer instead of being held
    by `device`; what fits nowhere is read from `offload_folder` for each forward pass.
    """
    import transformers

    name, pin = hub_commits.loadable(files)
    options: dict[str, Any] = {"dtype": "auto", **pin}
    if max_memory is not None:
        options |= {"device_map": "auto", "max_memory": dict(max_memory), "offload_folder": offload_folder}
    with model_errors(files):
        model = transformers.AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **pin)
    if max_memory is None:
        model = model.to(device_or_default(device))
    return AnswerLM(model.eval(), tokenizer, batch_size)


def load_for(files: str, batch_size: int, device: str | None, workers: Workers) -> AnswerLM | None:
    """Loads the model for a group of workers, a collective: on each worker's device, or, where one cannot hold it, over
    the GPUs of their node for the first worker, which then scores for all; None for the others. Raises UserError where
    neither is possible."""
    device = device_or_default(device)
    limits = sharded_over(weight_bytes(files), workers.all(memory_of(device)))
    if limits is None:
        return load_model(files, batch_size, device)
    return load_model(files, batch_size, device, whole_bytes(limits)) if workers.rank == 0 else None


class AnswerLM:
    """A causal language model with its tokenizer.

    Prompts, answers, windows of whole texts and ends of generated texts are those of lm-eval's `HFLM`. The results of a
    call depend on its arguments alone, to the bit on one kind of machine with as many threads; another `batch_size`
    changes log-likelihoods by rounding only.
    """

    max_gen_toks = 256
    """Greatest length of a generated answer where its task names none, in tokens."""
    name = "transformers"

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        """`batch_size`: a forward pass holds no more tokens than so many sequences."""
        self.model = model
        self.encoder = Encoder(tokenizer)
        self.batch_size = batch_size
        self.max_length = _context(model.config, tokenizer)
        self.shares_beginnings = shares_beginnings(model)
        self.ends = end_tokens(model, tokenizer)
        self.writer: Writer | None = None
        """Writes the answers that are not held to a pattern, in this engine's place."""
        self._stops: dict[tuple[str, ...], StopWords] = {}
        self._patterns: dict[str, TextPattern] = {}

    @property
    def prefix_token_id(self) -> int:
        return self.encoder.prefix_token_id

    def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        return self.encoder.encode(text, add_special_tokens)

    def likelihoods(self, pairs: Sequence[TokenPair]) -> list[Likelihood]:
        """Log-likelihood of each answer after its prompt, and whether greedy decoding would give that answer."""
        return likelihoods(self.model, pairs, self.batch_size, self.shares_beginnings)

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Log-likelihood of each whole text, read in windows of the model's context that overlap in one token."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
                )
            ]
            for request in requests
        ]
        window_likelihoods = iter(self.likelihoods([pair for text_windows in windows for pair in text_windows]))
        return [sum(next(window_likelihoods)[0] for _ in text_windows) for text_windows in windows]

    def answered(self, requests: Sequence[Instance], pairs: Sequence[TokenPair]) -> tuple[list[str], list[Likelihood]]:
        """The answer to each request, as `generate_until`, and the likelihoods of `pairs`. Prompts that have one right
        answer, and are the requests' prompts, are read once for both."""
        golds = {tuple(prompt): answer for prompt, answer in pairs}
        prompts = {tuple(self.tok_encode(request.args[0])) for request in requests}
        is_greedy = all(Decoding.of(request.args[1], self.max_gen_toks).temperature == 0 for request in requests)
        is_one_each = all(golds[tuple(prompt)] == answer for prompt, answer in pairs)
        is_own = self.writer is None and self.shares_beginnings
        if not (is_own and is_greedy and is_one_each and golds.keys() == prompts):
            return self.generate_until(requests), self.likelihoods(pairs)
        read_golds = Golds(golds)
        texts = self.generate_until(requests, read_golds)
        return texts, [read_golds.likelihoods[tuple(prompt)] for prompt, _ in pairs]

    def generate_until(self, requests: Sequence[Instance], golds: Golds | None = None) -> list[str]:
        """The answer to each request. A request that samples has random numbers of its own, by its item's number and
        its place among the item's requests, whatever else is asked with it."""
        decodings = [(request, Decoding.of(request.args[1], self.max_gen_toks)) for request in requests]
        num_asked: dict[int | None, int] = {}
        groups: dict[Decoding, list[tuple[int, str]]] = {}
        for index, (request, decoding) in enumerate(decodings):
            number = num_asked[request.doc_id] = num_asked.get(request.doc_id, 0) + 1
            groups.setdefault(decoding, []).append((index, f"{request.doc_id} {number}"))
        answers: dict[int, str] = {}
        for decoding, members in groups.items():
            prompts = [self.tok_encode(requests[index].args[0]) for index, _ in members]
            texts = self.generate(prompts, [seed for _, seed in members], decoding, golds)
            answers |= zip((index for index, _ in members), texts, strict=True)
        return [answers[index] for index in range(len(requests))]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[str],
        decoding: Decoding,
        golds: Golds | None = None,
    ) -> list[str]:
        """The text that follows each prompt; of two prompts that sample, those with equal seeds have equal numbers."""
        if self.writer is not None and decoding.pattern is None:
            settled = decoding.settled(getattr(self.model, "generation_config", None))
            tokens = self.writer.write(prompts, seeds, settled)
        else:
            tokens = self.write(prompts, seeds, decoding, golds)
        return [self.text(answer_tokens, decoding) for answer_tokens in tokens]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[str],
        decoding: Decoding,
        golds: Golds | None = None,
    ) -> list[list[int]]:
        """The tokens that this engine writes after each prompt."""
        return generated_tokens(
            self.model,
            prompts,
            seeds,
            decoding,
            self._stop(decoding),
            self.batch_size,
            self.max_length,
            share=self.shares_beginnings,
            constraint=self._constraint(decoding),
            golds=golds,
        )

    def text(self, tokens: Sequence[int], decoding: Decoding) -> str:
        """The answer that these tokens are: the text before the first stop word."""
        return self._stop(decoding).text(tokens)

    def _stop(self, decoding: Decoding) -> StopWords:
        if decoding.until not in self._stops:
            self._stops[decoding.until] = StopWords(self.encoder, decoding.until, self.ends)
        return self._stops[decoding.until]

    def _constraint(self, decoding: Decoding) -> Constraint | None:
        if decoding.pattern is None:
            return None
        if decoding.pattern not in self._patterns:
            vocabulary = self.model.get_output_embeddings().weight.shape[0]
            self._patterns[decoding.pattern] = TextPattern(decoding.pattern, self.encoder.tokenizer, vocabulary)
        return self._patterns[decoding.pattern]


def _context(config: Any, tokenizer: Any) -> int:
    """Tokens of the model's context, found where lm-eval looks for them."""
    from lm_eval.models.utils import resolve_max_length

    return resolve_max_length(config, tokenizer)

"""Training sees the tokens that an evaluation sees, whatever the tokenizer puts before, between and after them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokens import TEXTS
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from raycodellm.config import Source, Tokenizer, UserError
from raycodellm.corpora import Document, source_fingerprint
from raycodellm.files import Folder
from raycodellm.tokens import TokenizerInfo, build_tokenizer, encoding, prepare_store
from raycodellm.tokens.tokenizer import DONE, encode_documents, finished_tokenizer, open_encoder

SPECIAL = ["<unk>", "<s>", "</s>"]
OPENING = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])


def llama_like() -> Rust:
    """A space before each text, no words, BOS: as the tokenizers of the Llama 2 family."""
    made = Rust(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False, max_token_length=8)
    made.train_from_iterator([part for text in TEXTS for part in text.replace("\n", " \n ").split(" ")], trainer)
    made.post_processor = OPENING
    return made


def byte_level(opening: bool, prefix_space: bool = False) -> Rust:
    made = Rust(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    if opening:
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), OPENING])
    return made


MADE = {
    "llama-like": llama_like,
    "byte-level": lambda: byte_level(False),
    "byte-level with BOS": lambda: byte_level(True),
    "byte-level with a space before": lambda: byte_level(True, prefix_space=True),
}


def save(tokenizer: Rust, folder: Path) -> str:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return str(folder)


class Taken(dict):
    def __repr__(self) -> str:
        return "tokenizers"


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> dict[str, tuple[Rust, TokenizerInfo]]:
    root = tmp_path_factory.mktemp("tokenizers")
    found = Taken()
    for name, make in MADE.items():
        folder = save(make(), root / name)
        info = build_tokenizer(Tokenizer(pretrained=folder), [], Folder(str(root / f"{name} taken")))
        found[name] = Rust.from_file(f"{folder}/tokenizer.json"), info
    return found


def evaluated(tokenizer: Rust, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """As lm-eval cuts a pair."""
    from lm_eval.api.model import TemplateLM

    lm = SimpleNamespace(backend="causal", tok_encode=lambda text: tokenizer.encode(text).ids)
    return TemplateLM._encode_pair(lm, prompt, response)


def trained(info: TokenizerInfo, prompt: str, response: str) -> tuple[list[int], list[int]]:
    (data,), (num_prompt,) = encode_documents(open_encoder(info), [Document("a", prompt, response)], info.eos_id)
    ids = np.frombuffer(data, np.uint16).tolist()
    assert ids[-1] == info.eos_id
    return ids[:num_prompt], ids[num_prompt:-1]


PROMPTS = st.sampled_from(["Q:", "User: a?\nAssistant:", "def f(x):\n", "the ", "fo", "  a \n\n", "é="])
RESPONSES = st.sampled_from([" yes", "    return x\n", "x", "\n\ny", "ox jumps", " the quick  brown", "é", "\tz"])


@given(st.sampled_from(list(MADE)), PROMPTS, RESPONSES)
def test_a_pair_has_the_tokens_and_the_cut_of_the_evaluation(taken, name, prompt, response):
    tokenizer, info = taken[name]
    (asked, answered), (context, continuation) = trained(info, prompt, response), evaluated(tokenizer, prompt, response)
    whole = tokenizer.encode(prompt + response).ids
    assert asked + answered == whole and answered == continuation
    assert asked == context or whole[: len(context)] != context  # the response's beginning belongs to a token of both


@pytest.mark.parametrize("name", list(MADE))
def test_a_document_has_the_tokens_of_an_evaluated_text(taken, name):
    tokenizer, info = taken[name]
    texts = [*TEXTS[:20], "  indented\n", "x"]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    ids, _ = encode_documents(open_encoder(info), documents, info.eos_id)
    found = [np.frombuffer(data, np.uint16).tolist() for data in ids]
    assert found == [[*tokenizer.encode(text).ids, info.eos_id] for text in texts]
    assert info.opening == (() if name == "byte-level" else (1,))
    assert finished_tokenizer(info.folder) == info


@pytest.mark.parametrize("name", list(MADE))
def test_a_long_text_is_cut_where_its_pieces_have_its_tokens(taken, name, monkeypatch):
    _, info = taken[name]
    text = "  ".join(TEXTS[:30]) + " a\n b   c " + " ".join(TEXTS[30:40])
    whole = encoding.Encoder(Rust.from_file(f"{info.folder}/tokenizer.json"), np.dtype(np.uint16)).encode([text])
    monkeypatch.setattr(encoding, "LONGEST_PIECE", 50)
    encoder = encoding.Encoder(Rust.from_file(f"{info.folder}/tokenizer.json"), np.dtype(np.uint16))
    assert len(list(encoding.pieces(text, encoder._cut, 50))) > 10
    assert encoder.encode([text]) == whole


def test_a_store_opens_each_document_and_example(tmp_path, taken):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"question": t, "answer": "yes"}) + "\n" for t in TEXTS[:50]))
    info = taken["byte-level with BOS"][1]
    for kind, field in (("text", "question"), ("instruct_text", "text")):
        source = Source(kind=kind, path=str(tmp_path / "a.jsonl"), text_field=field)
        store = prepare_store(
            "s", source, source_fingerprint(source), info.folder, "t", 0, Folder(f"{tmp_path}/{kind}")
        )
        tokens, _ = store.read(np.arange(store.num_sequences(512)), 512)
        first = list(itertools.pairwise(tokens[0].tolist()))
        assert tokens[0, 0] == 1 and {after for before, after in first if before == 2} <= {1, 2}
        assert (tokens == 1).sum() > 5


def test_a_tokenizer_that_closes_each_text_is_refused_and_an_older_folder_is_made_again(tmp_path, taken):
    made = byte_level(False)
    made.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 2)])
    with pytest.raises(UserError, match=r"closes each text with the ids \[2\].*post_processor") as refused:
        build_tokenizer(Tokenizer(pretrained=save(made, tmp_path / "t")), [], Folder(str(tmp_path / "x")))
    assert len(str(refused.value)) < 300 + len(str(tmp_path))
    folder = taken["byte-level"][1].folder
    said = folder.read_json(DONE)
    older = Folder(str(tmp_path / "older"))
    older.write_json(DONE, {name: said[name] for name in ("vocab_size", "eos_id")})
    assert finished_tokenizer(older) is None

"""The tokenizer: trained on a sample or taken as it is, kept as a folder that transformers loads.

A trained one is byte-level BPE: every text has tokens, no text is unknown. `<|endoftext|>` is token 0: it ends every
document and fills unused places. Its chat template writes conversations as `raycodellm.corpora` reads them.

Written and used through `tokenizers` alone: importing transformers takes 5 to 9 seconds, and is needed only for a
pretrained tokenizer that comes from the hub or in a form that must be converted.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm.config import Tokenizer, UserError
from raycodellm.corpora import Document, SourceInputs
from raycodellm.files import Folder
from raycodellm.identity import file_hashes, hub_commits, tokenizer_identity
from raycodellm.tokens.encoding import Encoder
from raycodellm.tokens.manifest import token_dtype

if TYPE_CHECKING:
    import tokenizers

TRAINER_VERSION = 2
"""Raised whenever training gives another tokenizer for the same sample."""
END_OF_TEXT = "<|endoftext|>"
DONE = "raycodellm.json"
"""Written last into a tokenizer's folder: the fields of its `TokenizerInfo`."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{% set content = message['content'].lstrip('\\r\\n').rstrip() %}"
    "{% set content = content if content[:1].isspace() else ' ' + content %}"
    "{% if message['role'] == 'assistant' %}Assistant:{{ content }}{{ eos_token if loop.last else '\\n' }}"
    "{% else %}{{ message['role'] | capitalize }}:{{ content + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_FILES = re.compile(
    r"(tokenizer.*|special_tokens_map|added_tokens|vocab|merges)\.(json|txt|model)|chat_template\.jinja"
)

_ON_THE_HUB = ("tokenizer_config.json", "tokenizer.json", "config.json")
"""Files of which a tokenizer of the hub has one at least."""


@dataclass(frozen=True)
class TokenizerInfo:
    folder: Folder
    vocab_size: int
    """Largest token id plus 1."""
    eos_id: int
    opening: tuple[int, ...] = ()
    """Ids that the tokenizer's post-processor puts before a text, as a rule a beginning-of-text token: before each
    document of a token store, as transformers puts them before each prompt of an evaluation."""


def tokenizer_fingerprint(settings: Tokenizer, inputs: Iterable[SourceInputs], seed: int) -> str:
    """Known before training: from the sources for a trained tokenizer, from its files for one of a folder, from the
    commit for one of the hub. Raises UserError where no commit is known."""
    content = None if settings.pretrained is None else _content(settings.pretrained)
    return tokenizer_identity(settings.train, content, (source.fingerprint for source in inputs), seed, TRAINER_VERSION)


def _content(name: str) -> list[Any]:
    folder = hub_commits.folder_of(name)
    if folder is None:
        return ["hub", *hub_commits.pinned("tokenizer.pretrained", name, _ON_THE_HUB)]
    return ["folder", [[file, file_hashes.digest([folder.read_bytes(file)])] for file in _files_of(folder, name)]]


def _files_of(folder: Folder, name: str) -> list[str]:
    """The files that make the tokenizer. Raises UserError for a folder without any."""
    there = folder.list()
    files = [file for file in there if _FILES.fullmatch(file)]
    if "tokenizer.json" not in files:  # what is converted may be made of other files, and of the model's settings
        files = [file for file in there if file.endswith((".json", ".txt", ".model", ".jinja", ".tiktoken"))]
    if not files:
        raise UserError(f"tokenizer.pretrained: {name}: is not a folder; give a Hugging Face folder or a hub id")
    return files


def build_tokenizer(settings: Tokenizer, sample: Iterable[str], folder: Folder) -> TokenizerInfo:
    """Writes the tokenizer's files into `folder`; `sample` is read only where the tokenizer is to be trained.

    Raises UserError for a pretrained tokenizer that cannot be loaded, has no end-of-text token, or closes each text.
    """
    if settings.train is not None:
        files = _train(sample, settings.train.vocab_size)
    else:
        files = _pretrained(settings.pretrained)
    tokenizer = _from_json(files["tokenizer.json"])
    eos = _eos_token(files)
    eos_id = None if eos is None else tokenizer.token_to_id(eos)
    if eos_id is None:
        raise UserError(
            f"tokenizer.pretrained: {settings.pretrained}: its end-of-text token is {eos!r}, which is no token of its "
            "vocabulary; set eos_token in its tokenizer_config.json"
        )
    opening = _opening(tokenizer, settings.pretrained)
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    for name, data in files.items():
        folder.write_bytes(name, data)
    checksums = {name: file_hashes.digest([data]) for name, data in sorted(files.items())}
    folder.write_json(DONE, {"vocab_size": vocab_size, "eos_id": eos_id, "opening": opening, "checksums": checksums})
    return TokenizerInfo(folder, vocab_size, eos_id, opening)


def finished_tokenizer(folder: Folder) -> TokenizerInfo | None:
    """The tokenizer that `build_tokenizer` finished in this folder, if its files are still what it wrote, and it
    knew of openings."""
    if not folder.exists(DONE):
        return None
    try:
        said = folder.read_json(DONE)
        checksums = said.get("checksums", {})
        if any(file_hashes.digest([folder.read_bytes(name)]) != checksum for name, checksum in checksums.items()):
            return None
        return TokenizerInfo(folder, int(said["vocab_size"]), int(said["eos_id"]), tuple(said["opening"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged: made again


def _train(sample: Iterable[str], vocab_size: int) -> dict[str, bytes]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        "chat_template": CHAT_TEMPLATE,
    }
    special = {name: END_OF_TEXT for name in ("bos_token", "eos_token", "pad_token")}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=1).encode(),
        "special_tokens_map.json": json.dumps(special, indent=1).encode(),
    }


def _pretrained(name: str) -> dict[str, bytes]:
    folder = hub_commits.folder_of(name)
    with tempfile.TemporaryDirectory() as scratch:
        path, revision = Path(scratch) / "files", None
        if folder is None:
            origin, revision = hub_commits.pinned("tokenizer.pretrained", name, _ON_THE_HUB)
        else:
            path.mkdir()
            for file in _files_of(folder, name):
                (path / file).write_bytes(folder.read_bytes(file))
            origin = str(path)
        if not (path / "tokenizer.json").is_file():
            path = _converted(name, origin, revision, Path(scratch) / "converted")
        return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if _FILES.fullmatch(file.name)}


def _converted(name: str, origin: str, revision: str | None, target: Path) -> Path:
    """From the hub, or from files without tokenizer.json, through transformers."""
    from transformers import AutoTokenizer

    pin = {} if revision is None else {"revision": revision}
    try:
        AutoTokenizer.from_pretrained(origin, trust_remote_code=False, **pin).save_pretrained(target)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"tokenizer.pretrained: {name}: cannot be loaded: {reason}; give a folder or hub id") from error
    if not (target / "tokenizer.json").is_file():
        raise UserError(f"tokenizer.pretrained: {name}: has no fast version (tokenizer.json); use one that has")
    return target


def _eos_token(files: dict[str, bytes]) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token: Any = json.loads(files.get(name, b"{}")).get("eos_token")
        if token is not None:
            return token["content"] if isinstance(token, dict) else token
    return None


def _opening(tokenizer: tokenizers.Tokenizer, name: str | None) -> tuple[int, ...]:
    """Ids that the tokenizer puts before a text."""
    text, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = next(place for place in range(len(whole) + 1) if whole[place : place + len(text)] == text)
    if after := whole[before + len(text) :]:
        raise UserError(
            f"tokenizer.pretrained: {name}: closes each text with the ids {after}, evaluated prompts too, so that an "
            "answer would follow an end; take them out of the post_processor in its tokenizer.json"
        )
    return tuple(whole[:before])


def _from_json(data: bytes) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A document that spells out "<|endoftext|>" must not end there: the text is encoded like any other.
    tokenizer.encode_special_tokens = True
    return tokenizer


@lru_cache(maxsize=4)
def open_tokenizer(folder: Folder) -> tokenizers.Tokenizer:
    return _from_json(folder.read_bytes("tokenizer.json"))


@lru_cache(maxsize=4)
def open_encoder(info: TokenizerInfo) -> Encoder:
    """One per process and tokenizer: it remembers the words that it has encoded."""
    return Encoder(open_tokenizer(info.folder), token_dtype(info.vocab_size), info.opening)


def encode_documents(encoder: Encoder, documents: list[Document], eos_id: int) -> tuple[list[bytes], list[int]]:
    """(ids of each document between the tokenizer's opening and the end-of-text token, how many of them are prompt).

    A pair has the tokens that it has as one text, cut where lm-eval cuts it (`_encode_pair`): after as many tokens as
    the prompt has by itself, without the white space that ends it. A model is then trained on the tokens that it is
    evaluated on. Only a special token that is spelled out differs: lm-eval recognises it, here it is text.
    """
    eos = np.array([eos_id], encoder.dtype).tobytes()
    ids = encoder.encode([document.content for document in documents], eos)
    if not documents or documents[0].response is None:
        return ids, [0] * len(documents)
    prompts = encoder.encode([document.text.rstrip() for document in documents])
    # The closing token is always learnt, also where prompt and response are fewer tokens than the prompt by itself.
    cuts = [min(len(prompt), len(whole) - len(eos)) for prompt, whole in zip(prompts, ids, strict=True)]
    return ids, [cut // len(eos) for cut in cuts]

"""The tokenizer: trained on a sample or pretrained, kept as a folder that transformers loads.

A trained tokenizer is byte-level BPE: every text has tokens, none is unknown. Its token 0, `<|endoftext|>`, ends every
document and pads sequences. Its chat template writes conversations as `raycodellm.corpora` reads them.

The code uses `tokenizers` alone: importing transformers takes 5 to 9 seconds, and is needed only for a pretrained
tokenizer that comes from the hub or in a form that must be converted.
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
from raycodellm.config.errors import nearest_place
from raycodellm.corpora import Document, SourceInputs
from raycodellm.files import Folder
from raycodellm.identity import file_hashes, hub_commits, tokenizer_identity
from raycodellm.identity.load_errors import load_errors
from raycodellm.tokens.encoding import Encoder
from raycodellm.tokens.manifest import token_dtype

if TYPE_CHECKING:
    import tokenizers

TRAINER_VERSION = 2
"""To be raised whenever training gives another tokenizer for the same sample."""
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
"""A tokenizer of the hub has at least one of these files."""


@dataclass(frozen=True)
class TokenizerInfo:
    """A finished tokenizer."""

    folder: Folder
    vocab_size: int
    """Largest token id plus 1."""
    eos_id: int
    opening: tuple[int, ...] = ()
    """Ids that the tokenizer's post-processor puts before a text, usually a beginning-of-text token. Token stores have
    them before each document, as transformers puts them before each prompt of an evaluation."""


def tokenizer_fingerprint(settings: Tokenizer, inputs: Iterable[SourceInputs], seed: int) -> str:
    """The identity of a tokenizer, known before it is trained.

    Made from the sources of a trained tokenizer, the files of one in a folder, the commit of one on the hub. Raises
    UserError when the commit is not known.
    """
    origin = None if settings.pretrained is None else _origin_content(settings.pretrained)
    return tokenizer_identity(settings.train, origin, (source.fingerprint for source in inputs), seed, TRAINER_VERSION)


def _origin_content(name: str) -> list[Any]:
    """The commit of a tokenizer on the hub, or the hashes of the files in its folder."""
    folder = hub_commits.folder_of(name)
    if folder is None:
        return ["hub", *hub_commits.pinned("tokenizer.pretrained", name, _ON_THE_HUB)]
    return ["folder", [[file, file_hashes.digest([folder.read_bytes(file)])] for file in _files_of(folder, name)]]


def _files_of(folder: Folder, name: str) -> list[str]:
    """Names of the tokenizer's files. Raises UserError for a folder without any."""
    names = folder.list()
    files = [file for file in names if _FILES.fullmatch(file)]
    if "tokenizer.json" not in files:  # a conversion may need other files, and the model's settings
        files = [file for file in names if file.endswith((".json", ".txt", ".model", ".jinja", ".tiktoken"))]
    if not files:
        near = f"; {nearest_place(name)}" if folder.local is not None and not folder.local.is_dir() else ""
        raise UserError(f"tokenizer.pretrained: {name}: no folder with a tokenizer; give one, or a hub id{near}")
    return files


def is_tokenizer_file(name: str) -> bool:
    """True for a name that a tokenizer's file may have."""
    return _FILES.fullmatch(name) is not None or name == DONE


def build_tokenizer(settings: Tokenizer, sample: Iterable[str], folder: Folder) -> TokenizerInfo:
    """Writes the tokenizer's files into `folder`; `sample` is read only to train a tokenizer.

    Raises UserError for a pretrained tokenizer that cannot be loaded, has no end-of-text token, or closes each text.
    """
    if settings.train is not None:
        files = _train(sample, settings.train.vocab_size)
    else:
        assert settings.pretrained is not None  # the sweep file gives one of the two
        files = _pretrained_files(settings.pretrained)
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
    """The tokenizer that `build_tokenizer` finished in this folder; None when files changed since, or `opening` is
    missing, as in folders of older versions."""
    if not folder.exists(DONE):
        return None
    try:
        fields = folder.read_json(DONE)
        checksums = fields.get("checksums", {})
        if any(file_hashes.digest([folder.read_bytes(name)]) != checksum for name, checksum in checksums.items()):
            return None
        return TokenizerInfo(folder, int(fields["vocab_size"]), int(fields["eos_id"]), tuple(fields["opening"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged: made again


def tokenizer_at_hand(settings: Tokenizer, folder: Folder) -> tokenizers.Tokenizer | None:
    """The tokenizer that was made in this folder, or a pretrained one of a local folder; None without either."""
    if finished_tokenizer(folder) is not None:
        return open_tokenizer(folder)
    pretrained = hub_commits.folder_of(settings.pretrained) if settings.pretrained is not None else None
    if pretrained is None or pretrained.local is None or not pretrained.exists("tokenizer.json"):
        return None
    return open_tokenizer(pretrained)


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


def _pretrained_files(name: str) -> dict[str, bytes]:
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
            path = _convert(name, origin, revision, Path(scratch) / "converted")
        return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if _FILES.fullmatch(file.name)}


def _convert(name: str, origin: str, revision: str | None, target: Path) -> Path:
    """The folder `target` with the tokenizer in its fast form, converted by transformers."""
    from transformers import AutoTokenizer

    pin = {} if revision is None else {"revision": revision}
    with load_errors(f"tokenizer.pretrained: {name}", "cannot be loaded", "give a folder or hub id"):
        AutoTokenizer.from_pretrained(origin, trust_remote_code=False, **pin).save_pretrained(target)
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
    """Ids that the tokenizer puts before a text. Raises UserError for one that puts ids after a text."""
    plain, complete = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next(place for place in range(len(complete) + 1) if complete[place : place + len(plain)] == plain)
    if closing := complete[start + len(plain) :]:
        raise UserError(
            f"tokenizer.pretrained: {name}: closes each text with the ids {closing}, evaluated prompts too, so that an "
            "answer would follow an end; take them out of the post_processor in its tokenizer.json"
        )
    return tuple(complete[:start])


def _from_json(data: bytes) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A document that spells out "<|endoftext|>" must not end there: special tokens are encoded like other text.
    tokenizer.encode_special_tokens = True
    return tokenizer


@lru_cache(maxsize=4)
def open_tokenizer(folder: Folder) -> tokenizers.Tokenizer:
    """The tokenizer in a folder, opened once per process."""
    return _from_json(folder.read_bytes("tokenizer.json"))


@lru_cache(maxsize=4)
def open_encoder(info: TokenizerInfo) -> Encoder:
    """The encoder of a tokenizer, one per process: it keeps the ids of the words that it has encoded."""
    return Encoder(open_tokenizer(info.folder), token_dtype(info.vocab_size), info.opening)


def encode_documents(encoder: Encoder, documents: list[Document], eos_id: int) -> tuple[list[bytes], list[int]]:
    """(bytes of each document's ids, from the tokenizer's opening to the end-of-text token; number of prompt ids).

    A pair is encoded as one text, and cut where lm-eval cuts it (`_encode_pair`): after as many tokens as the prompt
    alone has without the white space at its end. So a model is trained on the tokens that it is evaluated on. Only a
    spelled-out special token differs: lm-eval recognises it, and here it is text.
    """
    eos = np.array([eos_id], encoder.dtype).tobytes()
    ids = encoder.encode([document.content for document in documents], eos)
    if not documents or documents[0].response is None:
        return ids, [0] * len(documents)
    prompts = encoder.encode([document.text.rstrip() for document in documents])
    # The closing token always counts, even when prompt and response have fewer tokens than the prompt alone.
    cuts = [min(len(prompt), len(pair) - len(eos)) for prompt, pair in zip(prompts, ids, strict=True)]
    return ids, [num_bytes // len(eos) for num_bytes in cuts]

"""The kinds of things that raycodellm writes into a storage, and the names by which each is recognised.

What has another name was written by somebody else, or by another version, and is never deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from raycodellm import tokens
from raycodellm.finished import OPTIMIZER
from raycodellm.records import EVALUATION, GIVEN_MODELS
from raycodellm.stage_store import TRUNKS
from raycodellm.storage_files import CHECKPOINTS, COMPLETE, DONE, LADDER
from raycodellm.tokens.manifest import MANIFEST
from raycodellm.tokens.tokenizer import DONE as TOKENIZER_DONE
from raycodellm.tokens.tokenizer import is_tokenizer_file
from raycodellm.win_rates.records import FOLDER as WIN_RATES

STAGES = "stages"
PRUNED = ".pruned-"
"""A local folder gets this before its name when it is deleted, so that it is gone in one step."""
MARKERS = (DONE, MANIFEST, TOKENIZER_DONE, COMPLETE, "sweep.yaml", LADDER)
"""Files that make what lies around them look finished, or be a run. They are deleted first."""

_IDENTITY = re.compile(r"[0-9a-f]{16}")
_NAMED = re.compile(r".+-[0-9a-f]{16}")
_CHECKPOINT = rf"({COMPLETE}|state\.json|shard-\d+-of-\d+\.safetensors)"
_RESULTS = rf"{EVALUATION}/([^/]+\.parquet|[^/]+-[0-9a-f]{{16}}/[0-9a-f]{{32}}\.parquet)"
_MODEL = re.compile(
    r"(config|generation_config|checksums)\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""A file, or a folder, that its writer renames when it is whole."""
_PROBE = re.compile(r"\.raycodellm-[0-9a-f]{32}")
"""A small file that tries whether the storage can be written and seen."""


@dataclass(frozen=True)
class Kind:
    """One kind of thing; each has a folder of its own inside the folder `folder` of the storage."""

    folder: str
    nouns: str
    name: re.Pattern[str]
    """Name of a thing's own folder."""
    files: re.Pattern[str]
    """Paths of a thing's files, from its own folder on."""
    tokenizer: str | None = None
    """The folder, from the thing's own on, that holds the files of a tokenizer; None for no such folder."""

    def strangers(self, paths: Iterable[str]) -> list[str]:
        """Paths, out of these from a thing's own folder on, that raycodellm did not write."""
        return [path for path in paths if not self._is_known(path)]

    def _is_known(self, path: str) -> bool:
        if is_leftover(path) or self.files.fullmatch(path):
            return True
        folder, _, name = path.rpartition("/")
        return folder == self.tokenizer and is_tokenizer_file(name)


STAGE = Kind(
    STAGES,
    "stages",
    _NAMED,
    re.compile(
        rf"(stage|so_far)\.json|{DONE}|LEASE|(ledger|metrics)\.parquet|seen-[0-9a-f]{{16}}\.parquet"
        r"|searching-[0-9a-f]{16}/\d+-of-\d+\.parquet"
        rf"|({CHECKPOINTS}/step-\d+|{OPTIMIZER})/{_CHECKPOINT}"
        rf"|model/({_MODEL.pattern})"
        rf"|{_RESULTS}|evaluation-[0-9a-f]{{16}}/[^/]+\.(parquet|json)"  # the last of older versions
    ),
    tokenizer="model",
)
TRUNK = Kind(TRUNKS, "trunks", _IDENTITY, re.compile(rf"step-\d+/{_CHECKPOINT}"))
TOKEN_STORE = Kind(
    tokens.TOKENS,
    "token stores",
    _NAMED,
    re.compile(r"(manifest|contamination)\.json|(tokens|documents|examples)-\d+\.arrow|packing-[^/]+\.arrow"),
)
TOKENIZER = Kind(tokens.TOKENIZERS, "tokenizers", _IDENTITY, re.compile("(?!)"), tokenizer="")
GIVEN_MODEL = Kind(GIVEN_MODELS, "evaluations of given models", _IDENTITY, re.compile(rf"model\.json|{_RESULTS}"))
KINDS = (STAGE, TRUNK, TOKEN_STORE, TOKENIZER, GIVEN_MODEL)

_RUN_FILES = re.compile(
    r"(sweep\.yaml|contents\.json|data\.json|spent\.json|timing\.json|timeline\.json|warm_start\.json|suggested\.json"
    r"|OWNER|\.lock|run\.log[^/]*|optuna\.log[^/]*|trials\.parquet|ladder\.json)"
    rf"|trials/\d+(/.*)?|runs/\d+\.json|(report|tune|slots|tensorboard|optuna\.log\.parts|{WIN_RATES})/.*"
)


def strangers_in_run(paths: Iterable[str]) -> list[str]:
    """Paths, out of these from a run folder or a ladder's folder on, that raycodellm did not write."""
    return [path for path in paths if not is_leftover(path) and not _RUN_FILES.fullmatch(path)]


def is_leftover(path: str) -> bool:
    """True for what a killed writer, or a killed deletion, has left."""
    return any(part.startswith(PRUNED) or _TEMPORARY.fullmatch(part) for part in path.split("/"))


def is_probe(name: str) -> bool:
    """True for a file, right in the storage, that tried whether the storage can be written."""
    return _PROBE.fullmatch(name) is not None


def is_log(name: str) -> bool:
    """True for the log that `prepare` keeps beside the token stores."""
    return re.fullmatch(r"run\.log[^/]*", name) is not None


def is_marker(path: str) -> bool:
    return path.rpartition("/")[2] in MARKERS

"""Folders laid out as data sets of the Hugging Face hub: which files are the wanted subset and split.

Known layouts, in the order in which they are tried:

1. folders written by `save_to_disk` (`dataset_dict.json`, `state.json`);
2. `configs:` in the YAML head of README.md;
3. names such as `data/train-00000-of-00004.parquet`, `<subset>/train-00000-of-00004.parquet` and
   `<subset>/<split>/0000.parquet`;
4. usual words for a split in the names (`train`, `dev`, `test`, …), but only for data sets of the hub, or if the source
   names a split or a subset.

Pure: names in, names out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import yaml

from raycodellm.config import UserError
from raycodellm.corpora.inputs import extension
from raycodellm.corpora.listing.globs import Glob
from raycodellm.corpora.registry import known_formats

Layout = dict[str, dict[str, list[str]]]
"""subset → split → names of files"""
_SHARD = re.compile(r"^(?:(?P<subset>.+)/)?(?P<split>\w+(?:\.\w+)*)-\d{4,}-of-\d{4,}[^/]*$")
_NUMBERED = re.compile(r"^(?:(?P<subset>.+)/)?(?P<split>[^/]+)/\d{4,}\.parquet$")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_WORD = re.compile(rf"(?:^|[/._\- \d])({'|'.join(w for words in _WORDS.values() for w in words)})(?=[/._\- \d])")
Read = Callable[[str], bytes]


def choose_files(
    path: str, names: Iterable[str], read: Read, subset: str | None, split: str | None, by_words: bool
) -> list[str] | None:
    """Names of the files of the subset and split; None if the folder is laid out in no known way.

    `read` returns the content of a small file by its name. If `split` is None, the split is train, or the only one; if
    `subset` is None, the subset is the default one, or the only one. `by_words` tries layout 4 in any case. Raises
    UserError if the choice is left open, or if the wanted subset or split is not in the folder.
    """
    names = sorted(names)
    must_be_known = by_words or subset is not None or split is not None
    layout = _layout_of_saved(path, names, read) or _layout_of_card(path, names, read) or _layout_of_shards(names)
    if not layout and must_be_known:
        layout = _layout_of_words(names)
    if not layout:
        if must_be_known:
            examples = ", ".join(names[:6]) or "nothing"
            raise UserError(f"{path}: holds no data file ({', '.join(_data_extensions())}); found {examples}")
        return None
    splits = _choose_option(path, "subset", subset, layout, ("default", "", "data"))
    return sorted(_choose_option(path, "split", split, splits, ("train",)))


def is_data(name: str) -> bool:
    """True if a file of this name holds data of a data set."""
    return extension(name) in _data_extensions()


@lru_cache(maxsize=1)
def _data_extensions() -> list[str]:
    return sorted(ending for format in known_formats().values() if format.is_data for ending in format.extensions)


def _choose_option(
    path: str, kind: str, requested: str | None, options: Mapping[str, Any], usual: tuple[str, ...]
) -> Any:
    names = ", ".join(repr(name) for name in list(options)[:40])
    if requested is not None:
        if requested not in options:
            raise UserError(f"{path}: has no {kind} {requested!r}; set {kind} to one of {names}")
        return options[requested]
    for name in (*usual, *(options if len(options) == 1 else ())):
        if name in options:
            return options[name]
    raise UserError(f"{path}: has {len(options)} {kind}s; set {kind} to one of {names}")


def _layout_of_saved(path: str, names: list[str], read: Read) -> Layout | None:
    """The layout of a folder that `save_to_disk` of Hugging Face's datasets library wrote; None for other folders."""
    if "dataset_dict.json" in names:
        splits = _read_json(path, "dataset_dict.json", read).get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise UserError(f"{path}/dataset_dict.json: splits is no list of names; save the data set again")
        return {"default": {split: _saved_files(path, f"{split}/", names, read) for split in splits}}
    if "state.json" in names and "dataset_info.json" in names:
        return {
            "default": {str(_read_json(path, "state.json", read).get("_split")): _saved_files(path, "", names, read)}
        }
    return None


def _saved_files(path: str, folder: str, names: list[str], read: Read) -> list[str]:
    state = _read_json(path, f"{folder}state.json", read)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{path}/{folder}: keeps an order apart from its rows; call flatten_indices() and save it again"
        )
    entries = state.get("_data_files") or []
    file_names = (
        [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )
    if (
        not isinstance(entries, list)
        or len(file_names) < len(entries)
        or not all(isinstance(name, str) for name in file_names)
    ):
        raise UserError(f"{path}/{folder}state.json: _data_files is no list of file names; save the data set again")
    files = [f"{folder}{name}" for name in file_names]
    missing = sorted(set(files) - set(names))
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing, which {folder}state.json names")
    return files


def _read_json(path: str, name: str, read: Read) -> dict[str, Any]:
    try:
        value = json.loads(read(name))
    except FileNotFoundError:
        raise UserError(f"{path}: {name} is missing; save the data set again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}/{name}: is no JSON ({error}); save the data set again") from error
    return value if isinstance(value, dict) else {}


def _layout_of_card(path: str, names: list[str], read: Read) -> Layout | None:
    """The layout that README.md says; None if it says none."""
    if "README.md" not in names:
        return None
    layout: Layout = {}
    for config in card_configs(read("README.md")):
        if not (config.get("data_files") or config.get("data_dir")):
            continue
        name, folder = config.get("config_name", "default"), config.get("data_dir") or ""
        if not isinstance(name, str) or not isinstance(folder, str):
            raise UserError(f"{path}: its README.md has a config whose name or data_dir is no text; {_BESIDE_CARD}")
        data_files = config.get("data_files") or f"{folder.strip('/')}/**"
        layout[name] = _config_files(path, name, _by_split(path, name, data_files), names)
        if config.get("default") == "true":
            layout["default"] = layout[name]
    return layout or None


def card_configs(card: bytes) -> list[dict[str, Any]]:
    """The configurations that a README.md lists, every value as text; none for a README for people only."""
    try:
        # BaseLoader reads every value as text: an impossible date is no error, and `no` is the name `no`.
        head = yaml.load(_yaml_head(card.decode(errors="replace")), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    configs = head.get("configs") if isinstance(head, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


_BESIDE_CARD = "correct it, or name just the files"


def _yaml_head(text: str) -> str:
    """The YAML between two lines of three dashes, the first of which begins the file; empty if there is none."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[0].rstrip() != "---":
        return ""
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == "---"), 0)
    return "\n".join(lines[1:end]).replace("\t", "  ")


def _by_split(path: str, name: str, data_files: Any) -> dict[str, list[str]]:
    """Split to the patterns of the names of its files."""
    if isinstance(data_files, str) or (isinstance(data_files, list) and isinstance(data_files[0], str)):
        data_files = {"train": data_files}
    elif isinstance(data_files, list) and all(isinstance(entry, dict) for entry in data_files):
        data_files = {_text(entry.get("split", "train")): entry.get("path") for entry in data_files}
    patterns_of = {}
    for split, patterns in data_files.items() if isinstance(data_files, dict) else ((None, None),):
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(split, str) or not isinstance(patterns, list) or not all(map(_text, patterns)):
            raise UserError(
                f"{path}: its README.md has data_files of {name[:60]!r} that are neither paths nor a list of split and "
                f"path; {_BESIDE_CARD}"
            )
        patterns_of[split] = patterns
    return patterns_of


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _config_files(path: str, name: str, by_split: Mapping[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    splits = {}
    for split, patterns in by_split.items():
        globs = [Glob(pattern.removeprefix("./")) for pattern in patterns]
        splits[split] = [
            file_name
            for file_name in names
            if file_name != "README.md" and any(glob.match(file_name) for glob in globs)
        ]
        if not splits[split]:
            listed = ", ".join(patterns)[:100]
            raise UserError(f"{path}: its README.md names {listed} for split {split} of {name}; no such file exists")
    return splits


def _layout_of_shards(names: list[str]) -> Layout:
    """The layout that names of shards say; empty if they say none."""
    layout: Layout = {}
    for name in names:
        match = _SHARD.match(name) if is_data(name) else None
        if match is None:
            match = _NUMBERED.match(name)
            match = match if match and _split_of(f"{match['split']}/") else None
        if match:
            layout.setdefault(match["subset"] or "", {}).setdefault(match["split"], []).append(name)
    return layout


def _layout_of_words(names: list[str]) -> Layout:
    """The layout that words for splits say; without such a word all data files are the split train."""
    data = [name for name in names if is_data(name)]
    splits: dict[str, list[str]] = {}
    for name in data:
        if split := _split_of(name):
            splits.setdefault(split, []).append(name)
    if not splits and data:
        splits["train"] = data
    return {"default": splits} if splits else {}


def _split_of(name: str) -> str | None:
    words = _SPLIT_WORD.findall(name.lower())
    return next((split for split, split_words in _WORDS.items() if words and words[-1] in split_words), None)

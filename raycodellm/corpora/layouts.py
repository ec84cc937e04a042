"""Folders in the layouts of Hugging Face datasets: which of their files are the wanted subset and split.

Known, in this order: `save_to_disk` folders (`dataset_dict.json`, `state.json`); `configs:` in the YAML head of
README.md; names such as `data/train-00000-of-00004.parquet`, `<subset>/train-00000-of-00004.parquet` and
`<subset>/<split>/0000.parquet`; and, for data sets of the hub or where a split or subset is asked for, a split's usual
words in the names (`train`, `dev`, `test`, …). Pure: names in, names out.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from raycodellm.config import UserError

Layout = dict[str, dict[str, list[str]]]
"""subset → split → names of files"""
_DATA = r"\.(?:parquet|pq|jsonl|ndjson|json|txt|text|arrow)(?:\.(?:gz|zst|bz2))?"
_SHARD = re.compile(rf"^(?:(?P<subset>.+)/)?(?P<split>\w+(?:\.\w+)*)-\d{{4,}}-of-\d{{4,}}[^/]*{_DATA}$")
_NUMBERED = re.compile(r"^(?:(?P<subset>.+)/)?(?P<split>[^/]+)/\d{4,}\.parquet$")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_WORD = re.compile(rf"(?:^|[/._\- \d])({'|'.join(w for words in _WORDS.values() for w in words)})(?=[/._\- \d])")
_ANYTHING = re.compile(rf"{_DATA}$")
Read = Callable[[str], bytes]


def choose_files(
    path: str, names: Iterable[str], read: Read, subset: str | None, split: str | None, by_words: bool
) -> list[str] | None:
    """Names of the files of the subset and split; None where the folder has no such layout.

    `read` gives a small file's content by name. Without `split` it is train, or the only one; without `subset` the
    default one, or the only one. Raises UserError where that is not enough or names what is not there.
    """
    names = sorted(names)
    wanted = by_words or subset is not None or split is not None
    layout = _saved(path, names, read) or _configured(path, names, read) or _named(names)
    if not layout and wanted:
        layout = _worded(names)
    if not layout:
        if wanted:
            raise UserError(f"{path}: holds no Parquet, JSONL, Arrow or text file; found {_some(names)}")
        return None
    chosen = _pick(path, "subset", subset, layout, ("default", "", "data"))
    return sorted(_pick(path, "split", split, chosen, ("train",)))


def is_data(name: str) -> bool:
    return _ANYTHING.search(name) is not None


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) or "nothing"


def _pick(path: str, what: str, wanted: str | None, known: Mapping[str, Any], usual: tuple[str, ...]) -> Any:
    shown = ", ".join(repr(name) for name in list(known)[:40])
    if wanted is not None:
        if wanted not in known:
            raise UserError(f"{path}: has no {what} {wanted!r}; set {what} to one of {shown}")
        return known[wanted]
    for name in (*usual, *(known if len(known) == 1 else ())):
        if name in known:
            return known[name]
    raise UserError(f"{path}: has {len(known)} {what}s; set {what} to one of {shown}")


def _saved(path: str, names: list[str], read: Read) -> Layout | None:
    """What `save_to_disk` of Hugging Face's datasets library writes."""
    if "dataset_dict.json" in names:
        splits = _json(path, "dataset_dict.json", read).get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise UserError(f"{path}/dataset_dict.json: splits is no list of names; save the data set again")
        return {"default": {split: _saved_files(path, f"{split}/", names, read) for split in splits}}
    if "state.json" in names and "dataset_info.json" in names:
        return {"default": {str(_json(path, "state.json", read).get("_split")): _saved_files(path, "", names, read)}}
    return None


def _saved_files(path: str, folder: str, names: list[str], read: Read) -> list[str]:
    state = _json(path, f"{folder}state.json", read)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{path}/{folder}: keeps an order apart from its rows; call flatten_indices() and save it again"
        )
    entries = state.get("_data_files") or []
    found = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not isinstance(entries, list) or len(found) < len(entries) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}/{folder}state.json: _data_files is no list of file names; save the data set again")
    files = [f"{folder}{name}" for name in found]
    missing = sorted(set(files) - set(names))
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing, which {folder}state.json names")
    return files


def _json(path: str, name: str, read: Read) -> dict[str, Any]:
    try:
        value = json.loads(read(name))
    except FileNotFoundError:
        raise UserError(f"{path}: {name} is missing; save the data set again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}/{name}: is no JSON ({error}); save the data set again") from error
    return value if isinstance(value, dict) else {}


def _configured(path: str, names: list[str], read: Read) -> Layout | None:
    if "README.md" not in names:
        return None
    try:
        # As text alone: a date that no calendar has, or a number that is none, is no error, and `no` is the name `no`.
        card = yaml.load(_head(read("README.md").decode(errors="replace")), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return None  # a README that only people read
    configs = card.get("configs") if isinstance(card, dict) else None
    layout: Layout = {}
    for config in configs if isinstance(configs, list) else ():
        if not isinstance(config, dict) or not (config.get("data_files") or config.get("data_dir")):
            continue
        name, folder = config.get("config_name", "default"), config.get("data_dir") or ""
        if not isinstance(name, str) or not isinstance(folder, str):
            raise UserError(f"{path}: its README.md has a config whose name or data_dir is no text; {_BESIDE_CARD}")
        data_files = config.get("data_files") or f"{folder.strip('/')}/**"
        layout[name] = _config_files(path, name, _by_split(path, name, data_files), names)
        if config.get("default") == "true":
            layout["default"] = layout[name]
    return layout or None


_BESIDE_CARD = "correct it, or name just the files"


def _head(text: str) -> str:
    """The YAML between the first line, which is three dashes, and the next such line; empty where there is none."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[0].rstrip() != "---":
        return ""
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == "---"), 0)
    return "\n".join(lines[1:end]).replace("\t", "  ")


def _by_split(path: str, name: str, data_files: Any) -> dict[str, list[str]]:
    """split -> patterns of the names of its files"""
    if isinstance(data_files, str) or (isinstance(data_files, list) and isinstance(data_files[0], str)):
        data_files = {"train": data_files}
    elif isinstance(data_files, list) and all(isinstance(entry, dict) for entry in data_files):
        data_files = {_text(entry.get("split", "train")): entry.get("path") for entry in data_files}
    found = {}
    for split, patterns in data_files.items() if isinstance(data_files, dict) else ((None, None),):
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(split, str) or not isinstance(patterns, list) or not all(map(_text, patterns)):
            raise UserError(
                f"{path}: its README.md has data_files of {name[:60]!r} that are neither paths nor a list of split and "
                f"path; {_BESIDE_CARD}"
            )
        found[split] = patterns
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _config_files(path: str, name: str, by_split: Mapping[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    splits = {}
    for split, patterns in by_split.items():
        globs = [Glob(pattern.removeprefix("./")) for pattern in patterns]
        splits[split] = [n for n in names if n != "README.md" and any(glob.match(n) for glob in globs)]
        if not splits[split]:
            where = ", ".join(patterns)[:100]
            raise UserError(f"{path}: its README.md names {where} for split {split} of {name}; no such file is there")
    return splits


class Glob:
    """`*`, `?` and `[a-z]` within the name of a file or folder, `**` for any folders.

    Compared folder by folder, in time that grows with names and pattern alone: as one regular expression, a pattern of
    many `*` would take until the end of days.
    """

    def __init__(self, pattern: str) -> None:
        # `**.py` is `**/*.py`; a `**` at the end stands for something.
        pattern = re.sub(r"(?<=[^/*])\*\*+", "*", re.sub(r"\*\*+(?=[^/*])", "**/*", pattern))
        steps = pattern.split("/")
        steps += ["*"] if steps[-1] == "**" else []
        self._steps = [None if step == "**" else re.compile(fnmatch.translate(step)) for step in steps]

    def match(self, name: str) -> bool:
        """Is this the name of what the pattern means, or of something in a folder that it means?"""
        reached = self._onwards({0})
        for part in name.split("/"):
            if len(self._steps) in reached:
                return True
            steps = ((place, self._steps[place]) for place in reached)
            reached = {
                place if step is None else place + 1 for place, step in steps if step is None or step.match(part)
            }
            reached = self._onwards(reached)
        return len(self._steps) in reached

    def _onwards(self, places: set[int]) -> set[int]:
        """With those that come after `**`, which may stand for no folder."""
        for place, step in enumerate(self._steps):
            if step is None and place in places:
                places.add(place + 1)
        return places


def _named(names: list[str]) -> Layout:
    layout: Layout = {}
    for name in names:
        found = _SHARD.match(name)
        if found is None:
            found = _NUMBERED.match(name)
            found = found if found and _split_of(f"{found['split']}/") else None
        if found:
            layout.setdefault(found["subset"] or "", {}).setdefault(found["split"], []).append(name)
    return layout


def _worded(names: list[str]) -> Layout:
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
    return next((split for split, known in _WORDS.items() if words and words[-1] in known), None)

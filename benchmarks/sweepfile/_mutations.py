"""Sweep files with something wrong, or odd, in them: made of the shipped ones and of one that sets every field."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "sweeps").glob("*.yaml"))
EVERY_FIELD = (Path(__file__).resolve().parent / "every_field.yaml").read_text(encoding="utf-8")
CONDITIONAL = (Path(__file__).resolve().parent / "conditional.yaml").read_text(encoding="utf-8")

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_RAW = "@raw{}@"
"""Stands in a tree for text that no dumper would write."""
RAW_VALUES = (
    *("5e-1", "1e-3", "1E5", "1e400", "-1e400", ".inf", "-.inf", ".nan", "010", "0x1F", "0o17", "0b11", "1_000"),
    *("1:30", "190:20:30.15", "+1", ".5", "5.", "1e", "-", "~", "null", "yes", "no", "on", "off", "true", "y"),
    *("2020-13-45", "2020-01-01", "2020-01-01T25:61:61Z", "1" + "0" * 400, "9" * 5000, "-9223372036854775809"),
    *("!!int abc", "!!float x", "!!bool maybe", "!!null x", "!!binary x", "!!timestamp x", "!!set {a}", "!!omap [a]"),
    *("!!python/object/apply:os.system [ls]", "!foo bar", "!!str 5", "!!map [1]", "!!seq {a: 1}", "!!str [1]"),
    *("*nowhere", "&a [*a]", "&a {b: *a}", "[" * 400, "[" * 30 + "]" * 30, "{a: " * 300 + "1" + "}" * 300),
    *('"\\0"', '"\\ud800"', '"\\x1b[31m"', "'", '"', "|", ">", "%", "@", "`", "{", "}", "[,]", "{,}", "? x", "- a"),
    *("{<<: 5}", "{<<: [1]}", "{<<: {a: 1}}", "{? [a] : 1}", "{? {a: b} : 1}", "{1: 2}", "{true: 1}", "{1.5: 2}"),
    *("{null: 1}", "{a: 1, a: 2}", "'５'", "٣", "∞", "½", "१२"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1.5, 1e-9, 1e9, 1e18, 10**15, 10**16, 10**18, 2**31, 2**63 - 1),
    *("", " ", "x", "x" * 2000, "a b", "a.b", "a/b", "../x", "1", "0.5", "nan", "auto", "none", "é", "数据", "\u202e"),
    *("a\nb", "\t", "\u2028", "😀", "builtin:nothing", "s3://", "xyz://a", "/dev/zero", "search", "choice", "<b>"),
    *([], {}, [[]], [{}], [None], {"": None}, [1, 2], ["a", "a"], {"a": 1}, {"search": None}, {"search": {}}),
    *({"search": {"uniform": [0, 1]}}, {"search": {"uniform": [1, 0]}}, {"search": {"uniform": ["a", "b"]}}),
    *({"search": {"uniform": [0, 1, 2]}}, {"search": {"uniform": []}}, {"search": {"uniform": 3}}),
    *({"search": {"uniform": [True, 2]}}, {"search": {"loguniform": [0, 1]}}, {"search": {"loguniform": [1e-9, 1e9]}}),
    *({"search": {"loguniform": [1e-4, 1e-2]}}, {"search": {"int": [1, 10]}}, {"search": {"int": [1.5, 2]}}),
    *({"search": {"int": [0, 10**15]}}, {"search": {"int": [-(10**18), 10**18]}}, {"search": {"choice": []}}),
    *({"search": {"choice": [1, 1]}}, {"search": {"choice": [1, True]}}, {"search": {"choice": [None, 1]}}),
    *({"search": {"choice": ["constant", "increase"]}}, {"search": {"choice": [{"a": 1}, [1, 2], "x"]}}),
    *({"search": {"choice": list(range(400))}}, {"search": {"choice": list(range(2000))}}, {"search": {"simplex": {}}}),
    *({"search": {"uniform": [0, 1], "int": [0, 1]}}, {"search": {"uniform": [0, 1]}, "other": 1}),
    *({"search": {"search": {"uniform": [0, 1]}}}, {"search": {"choice": [{"search": {"uniform": [0, 1]}}, 1]}}),
    *({"search": {"uniform": [{"search": {"uniform": [0, 1]}}, 1]}}, {"search": {"choice": {"a": 1}}}),
    {"search": {"choice": [{"peak": {"search": {"uniform": [0.1, 0.2]}}}, {"peak": {"search": {"uniform": [1, 2]}}}]}},
    {"search": {"choice": [{"a": {"search": {"unifrom": [0, 1]}}}, {"a": 1}]}},
)


def make(number: int, seed: int) -> tuple[str, str]:
    """(what was done, the sweep file) of a case; the same for the same number and seed."""
    chance = random.Random(f"{seed} {number}")
    text, tree = chance.choice(_bases())
    changes = []
    in_tree = chance.choice((0, 1, 1, 1, 1, 2, 2, 3))
    if in_tree:
        tree = copy.deepcopy(tree)
        raw: list[str] = []
        for _ in range(in_tree):
            change = chance.choice(_TREE_CHANGES)
            change(chance, tree, raw)
            changes.append(change.__name__.strip("_"))
        text = _dumped(tree, raw)
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1)) if in_tree else chance.choice((1, 1, 2))):
        text_change = chance.choice(_TEXT_CHANGES)
        text = text_change(chance, text)
        changes.append(text_change.__name__.strip("_"))
    return " + ".join(changes), text


@functools.cache
def _bases() -> list[tuple[str, Any]]:
    """The files that are changed, as text and as trees. Three of four times one that a sweep may begin with here: most
    shipped files ask for data or devices that are not on this machine, and are refused with any change."""
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in SHIPPED}
    texts = [*shipped.values(), *[shipped["quickstart"], EVERY_FIELD, CONDITIONAL] * len(shipped)]
    return [(text, yaml.safe_load(text)) for text in texts]


def _dumped(tree: Any, raw: list[str]) -> str:
    text = yaml.dump(tree, Dumper=_DUMPER, sort_keys=False, default_flow_style=None, width=10_000, allow_unicode=True)
    return re.sub(r"['\"]?@raw(\d+)@['\"]?", lambda match: raw[int(match[1])], text)


# ------------------------------------------------------------------------------------------------------------ of trees


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside `tree`."""
    places: list[tuple[Any, Any]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in list(items):
        places += [(tree, key), *_places(inner)]
    return places


def _some_place(chance: random.Random, tree: Any) -> tuple[Any, Any]:
    return chance.choice(_places(tree) or [(tree, "name")])


def _any_value(chance: random.Random, raw: list[str]) -> Any:
    if chance.random() < 0.7:
        return copy.deepcopy(chance.choice(VALUES))
    raw.append(chance.choice(RAW_VALUES))
    return _RAW.format(len(raw) - 1)


def _another_value(chance: random.Random, tree: Any, raw: list[str]) -> None:
    inside, key = _some_place(chance, tree)
    inside[key] = _any_value(chance, raw)


def _number_changed(chance: random.Random, tree: Any, raw: list[str]) -> None:
    places = [(i, k) for i, k in _places(tree) if isinstance(i[k], (int, float)) and not isinstance(i[k], bool)]
    if places:
        inside, key = chance.choice(places)
        value = inside[key]
        change: Callable[[], Any] = chance.choice(
            [
                *(lambda: -value, lambda: value * 10 ** chance.randint(-9, 12), lambda: value + 1, lambda: 0),
                *(lambda: str(value), lambda: float(value), lambda: bool(value), lambda: value + 0.5, lambda: [value]),
                lambda: {"search": {"uniform": [value, value + 1]}},
                lambda: {"search": {"int": [value, value + 5]}},
                lambda: {"search": {"choice": [value, value * 2]}},
            ]
        )
        inside[key] = change()


def _removed(chance: random.Random, tree: Any, raw: list[str]) -> None:
    inside, key = _some_place(chance, tree)
    del inside[key]


def _renamed(chance: random.Random, tree: Any, raw: list[str]) -> None:
    inside, key = _some_place(chance, tree)
    if isinstance(inside, dict):
        text = str(key)
        spot = chance.randrange(len(text) + 1)
        odd = [text[:spot] + text[spot + 1 :], text + "x", text.upper(), f"{text}.x", 5, None, True, "", "search", "é"]
        inside[chance.choice(odd)] = inside.pop(key)


def _added(chance: random.Random, tree: Any, raw: list[str]) -> None:
    inside, _ = _some_place(chance, tree)
    keys = [k for i, k in _places(tree) if isinstance(i, dict)]
    if isinstance(inside, dict):
        inside[chance.choice([*keys, "unknown", "search", "name"])] = _any_value(chance, raw)
    else:
        inside.append(_any_value(chance, raw))


def _swapped(chance: random.Random, tree: Any, raw: list[str]) -> None:
    (first, a), (second, b) = _some_place(chance, tree), _some_place(chance, tree)
    first[a], second[b] = copy.deepcopy(second[b]), copy.deepcopy(first[a])


def _wrapped(chance: random.Random, tree: Any, raw: list[str]) -> None:
    inside, key = _some_place(chance, tree)
    value = inside[key]
    other_value = _any_value(chance, raw)
    deep: Any = value
    for _ in range(chance.choice((3, 35, 60))):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    wraps = [[value], {"a": value}, {"search": {"choice": [value, other_value]}}, {"search": value}, deep]
    wraps.append({"search": {"choice": [{"search": {"choice": [value, other_value]}}, value]}})
    inside[key] = chance.choice(wraps)


def _repeated(chance: random.Random, tree: Any, raw: list[str]) -> None:
    places = [(i, k) for i, k in _places(tree) if isinstance(i[k], list)]
    if places:
        inside, key = chance.choice(places)
        inside[key] = inside[key] * chance.choice((0, 2, 3, 200))


_WORDS = {
    "schedule": ("constant", "increase", "linear_up", "code_first", "cosine", "linear", "wsd", "cosin"),
    "boundary": ("restart", "continue"),
    "state": ("fresh", "keep"),
    "optimizer_state": ("fresh", "keep"),
    "budget": ("competitive", "additive"),
    "packing": ("concatenate", "best_fit"),
    "interpolation": ("step", "linear", "cosine"),
    "kind": ("text", "code", "instruct_code", "math", "txt"),
    "format": ("parquet", "source", "qa", "commits", "zip"),
    "sampler": ("tpe", "gp", "grid", "random", "nsga2", "qmc"),
    "metric": ("mean/bpb", "boxes/acc_low", "boxes/nothing", "arc_easy/acc", "mean/items", "/", "boxes"),
    "tasks": (["boxes"], ["arc_easy"], ["/nowhere/task.yaml"], [], ["boxes", "boxes"], "boxes"),
    "preset": ("tiny", "mini", "midi", "nano", "small", "470m", "2.8b", "big"),
    "parametrization": ("standard", "mup", "muP"),
    "precision": ("fp32", "bf16", "fp16", "fp8"),
    "slots": ("auto", 1, 3, 10**9),
    "workers": (1, 2, 64, 10**9),
    "trials": (None, 1, 5_000, 10**9),
    "replicates": (1, 40, 10**6),
    "last": (2, 50, 10**9),
    "average_last": (2, 50, 10**9),
    "tokens": (1, 10**12, 10**15, 3.5, "many"),
    "final": (0, 0.0, 1.0, 2.0),
    "config": ({"model_type": "llama"}, {"model_type": "gpt2", "n_layer": 0}, {"model_type": "no"}, {"a": 1}),
    "enqueue": ([{}], [{"pretrain.code_ratio": 0.1}], [{"pretrain.code_ratio": "x"}], [{"a": 1}, 5]),
}


def _another_word(chance: random.Random, tree: Any, raw: list[str]) -> None:
    """A value that the field may have, or nearly."""
    places = [(inside, key) for inside, key in _places(tree) if key in _WORDS]
    if places:
        inside, key = chance.choice(places)
        word = copy.deepcopy(chance.choice(_WORDS[key]))
        inside[key] = {"search": {"choice": [inside[key], word]}} if chance.random() < 0.3 else word


def _word_set(chance: random.Random, tree: Any, raw: list[str]) -> None:
    """A field that is not there yet."""
    name = chance.choice([*_WORDS])
    inside = [i for i, k in _places(tree) if isinstance(i, dict)] or [tree]
    chance.choice(inside)[name] = copy.deepcopy(chance.choice(_WORDS[name]))


_TREE_CHANGES = (
    *(_number_changed,) * 6,
    *(_another_word,) * 8,
    *(_another_value,) * 3,
    *(_word_set, _removed, _renamed, _added, _swapped, _wrapped, _repeated),
)


# ------------------------------------------------------------------------------------------------------------- of text


def _character(chance: random.Random, text: str) -> str:
    spot = chance.randrange(len(text))
    replacement = chance.choice(
        ["", "\t", "\n", ":", "-", "{", "}", "[", "]", '"', "'", "#", "&a ", "*a", "!", "%", "\x00"]
    )
    odd = chr(chance.choice((0x07, 0x85, 0xA0, 0x2028, 0xFEFF, 0x202E, 0x1F600)))
    return text[:spot] + chance.choice([replacement, odd]) + text[spot + chance.choice((0, 1)) :]


def _lines_moved(chance: random.Random, text: str) -> str:
    lines = text.splitlines()
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return "\n".join(lines)


def _line_doubled(chance: random.Random, text: str) -> str:
    lines = text.splitlines()
    spot = chance.randrange(len(lines))
    return "\n".join([*lines[: spot + 1], *lines[spot:]])


def _indented(chance: random.Random, text: str) -> str:
    lines = text.splitlines()
    spot = chance.randrange(len(lines))
    lines[spot] = chance.choice([f"  {lines[spot]}", f"\t{lines[spot]}", lines[spot].lstrip(), f"- {lines[spot]}"])
    return "\n".join(lines)


def _tagged(chance: random.Random, text: str) -> str:
    spots = [match.end() for match in re.finditer(r": ", text)]
    if not spots:
        return text
    spot = chance.choice(spots)
    tags = ("!!int ", "!!float ", "!!str ", "!!bool ", "!!timestamp ", "!!python/name:os.system ", "!x ", "&a ", "*a ")
    return text[:spot] + chance.choice(tags) + text[spot:]


def _value_written_oddly(chance: random.Random, text: str) -> str:
    matches = [*re.finditer(r"(?<=: )[^\s,{}\[\]]+", text)]
    if not matches:
        return text
    spot = chance.choice(matches)
    return text[: spot.start()] + chance.choice(RAW_VALUES) + text[spot.end() :]


def _cut(chance: random.Random, text: str) -> str:
    return text[: chance.randrange(len(text))]


def _bomb(chance: random.Random, text: str) -> str:
    names = "abcdefghi"
    lines = ["bomb_a: &a [x, x, x, x, x, x, x, x, x]"]
    for previous, name in itertools.pairwise(names):
        inside = ", ".join([f"*{previous}"] * 9)
        merge = f"{{<<: [{inside}]}}" if chance.random() < 0.2 else f"[{inside}]"
        lines.append(f"bomb_{name}: &{name} {merge}")
    return "\n".join([*lines, text])


def _framed(chance: random.Random, text: str) -> str:
    frames = ("---\n{}\n---\n{}", "\ufeff{}", "%YAML 9.9\n---\n{}", "%TAG ! x\n---\n{}", "{}\n...\nx", "- {}")
    return chance.choice(frames).replace("{}", text)


_TEXT_CHANGES = (
    *(_character, _character, _lines_moved, _line_doubled, _indented, _tagged, _tagged),
    *(_value_written_oddly, _value_written_oddly, _cut, _bomb, _framed),
)

"""The data sets of tasks that are Python classes, such as lm-eval's `squadv2`, read from their source without running
it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycodellm.evaluation.tasks.yaml_text import Tagged

_KEYS = {"DATASET_PATH": "dataset_path", "DATASET_NAME": "dataset_name"}
"""Attribute of the class -> the key that a YAML file has for it."""


def class_tree(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a task's tree that its class states instead; empty for a task without a class. Such tasks do not say
    in one place which split they evaluate: those of lm-eval evaluate `validation`."""
    class_tag = tree.get("class")
    if not isinstance(class_tag, Tagged) or not class_tag.function:
        return {}
    module, _, name = class_tag.function.rpartition(".")
    try:
        parsed = ast.parse((folder / f"{module.replace('.', '/')}.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}  # lm-eval tells what is wrong when it loads the task
    classes = {node.name: node for node in parsed.body if isinstance(node, ast.ClassDef)}
    attributes = _attributes(name, classes, frozenset())
    return {**attributes, "validation_split": "validation", "training_split": "train"} if attributes else {}


def _attributes(name: str, classes: Mapping[str, ast.ClassDef], seen: frozenset[str]) -> dict[str, Any]:
    """The class's constants of _KEYS; a constant of the class itself comes before that of its bases in the same
    file."""
    node = classes.get(name)
    if node is None or name in seen:
        return {}
    attributes: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name):
            attributes |= _attributes(base.id, classes, seen | {name})
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            attributes |= {_KEYS[name]: statement.value.value for name in names if name in _KEYS}
    return attributes

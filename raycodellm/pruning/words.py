"""A plan and its outcome in words, and as plain values."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from raycodellm.pruning.deletion import Deleted
from raycodellm.pruning.look import Look
from raycodellm.pruning.needs import Needs
from raycodellm.pruning.plan import RUNS, Item, Plan
from raycodellm.tables import Table, table_lines

FORMAT = 1
"""Raised when a key of `document` changes its meaning or goes."""
_SHOWN = 5
"""Items of a group that are listed, the largest first, unless all are asked for."""


def size(num_bytes: int) -> str:
    """`812 B`, `4.2 MB`, `1.31 TB`: powers of 1,000, three digits."""
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit_bytes * 0.9995:
            value = num_bytes / unit_bytes
            return (
                f"{value:.2f} {unit}"
                if value < 9.995
                else f"{value:.1f} {unit}"
                if value < 99.95
                else f"{value:.0f} {unit}"
            )
    return f"{num_bytes} B"


def printable(text: str) -> str:
    """The text on one line: a name may hold line breaks, a terminal's commands, or bytes that are no text."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def lines(look: Look, plan: Plan, *, show_all: bool = False) -> list[str]:
    """The plan for people: what is kept and for whom, what is left alone and why, what can be deleted, the largest
    items first."""
    names = [needs.sweep for needs in look.needs if needs.sweep not in look.listing.ladders]
    drivers = {needs.sweep: f"run by {needs.driver}" if needs.driver else "" for needs in look.needs}
    rows = [(name, *map(size, plan.bytes_of(name)), drivers[name]) for name in names]
    subject = f"{len(names)} sweep needs" if len(names) == 1 else f"{len(names)} sweeps need"
    sentences = [f"{look.listing.storage}: {subject} {size(plan.kept_bytes)}"]
    sentences += table_lines(Table(("sweep", "needs", "alone", ""), rows, left=(0, 3)), "  ") if rows else []
    if plan.young:
        total = size(sum(item.num_bytes for item in plan.young))
        hours = f"{look.asked.grace_hours:g}"
        things = "1 thing" if len(plan.young) == 1 else f"{len(plan.young)} things"
        sentences.append(f"{things} ({total}) younger than {hours} h stay (--grace), though no sweep needs them")
    sentences += [
        f"{path} stays: raycodellm did not write {name}" for path, name in _first(plan.left_alone.items(), show_all)
    ]
    sentences += [f"…{_more(plan.left_alone)}"] if not show_all and _more(plan.left_alone) else []
    if look.listing.linked:
        links, reason = ", ".join(look.listing.linked), "another storage's link may lead there too"
        sentences.append(f"{links}: a link out of the storage, left alone: {reason} (--follow-links, if none does)")
    if look.listing.unknown:
        unknown = ", ".join(_first(look.listing.unknown, show_all))
        sentences.append(f"not raycodellm's, left alone: {unknown}{'' if show_all else _more(look.listing.unknown)}")
    if not plan.items:
        return [*map(printable, sentences), "there is nothing to delete"]
    groups = defaultdict(list)
    for item in sorted(plan.items, key=lambda item: -item.num_bytes):
        groups[item.group].append(item)
    table = []
    for name, items in sorted(groups.items(), key=lambda group: group[0] != RUNS):  # run folders first
        newest = max(item.written for item in items)
        table.append((name, str(len(items)), size(sum(item.num_bytes for item in items)), _day(newest)))
        shown = items if show_all else items[:_SHOWN]
        table += [(f"  {item.path}", "", size(item.num_bytes), _day(item.written)) for item in shown]
        table += (
            [(f"  … {len(items) - len(shown)} more; --all shows them", "", "", "")] if len(items) > len(shown) else []
        )
    sentences.append("no kept sweep needs:")
    sentences += table_lines(Table(("", "number", "size", "last written"), table, left=(0, 3)), "  ")
    return [*map(printable, sentences), f"{size(plan.num_bytes)} can be freed"]


def document(look: Look, plan: Plan, deleted: Deleted | None) -> dict[str, Any]:
    """Plain values with stable keys, documented in docs/cluster.md. `deleted`: None where nothing was asked for."""
    return {
        "format": FORMAT,
        "storage": look.listing.storage.uri,
        "kept_bytes": plan.kept_bytes,
        "sweeps": [_sweep(needs, plan) for needs in look.needs],
        "kept": [{"path": kept.path, "bytes": kept.num_bytes, "sweeps": list(kept.sweeps)} for kept in plan.kept],
        "unneeded": [_item(item) for item in plan.items],
        "unneeded_bytes": plan.num_bytes,
        "young": [_item(item) for item in plan.young],
        "left_alone": [*({"path": path, "unknown": name} for path, name in plan.left_alone.items())],
        "unknown": [*look.listing.unknown, *look.listing.linked],
        "deleted": None if deleted is None else [item.path for item in deleted.items],
        "deleted_bytes": 0 if deleted is None else deleted.num_bytes,
        "failed": {} if deleted is None else dict(deleted.failed),
    }


def _sweep(needs: Needs, plan: Plan) -> dict[str, Any]:
    whole, alone = plan.bytes_of(needs.sweep)
    return {"name": needs.sweep, "bytes": whole, "bytes_alone": alone, "driver": needs.driver}


def _item(item: Item) -> dict[str, Any]:
    return {
        "kind": item.group,
        "path": item.path,
        "bytes": item.num_bytes,
        "files": len(item.files),
        "last_written": item.written or None,
    }


def _first(values: Any, show_all: bool) -> list:
    return list(values) if show_all else list(values)[:_SHOWN]


def _more(values: Collection[Any]) -> str:
    return f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""


def _day(written: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(written)) if written else ""

"""What a run is made of beside its sweep file: the recipe, lm-eval, and what the sweep names, by content.

Kept in the run folder when the first trial begins. A run that is continued with something else would mix arms that
cannot be compared, so that is refused by its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycodellm import config, identity, store
from raycodellm.config import UserError
from raycodellm.identity import Contents
from raycodellm.records import RECIPE_VERSION, as_json
from raycodellm.sweep.folder import Run

CONTENTS = "contents.json"


def fix_contents(run: Run) -> Contents:
    """Looks up what the sweep names and keeps that in the run folder; all trials then go by it.

    Raises UserError where trials of the run have ended that were made of something else.
    """
    contents = store.contents_of_file(run.file)
    now = {"recipe": RECIPE_VERSION, "compiled": _compiled(run), **as_json(contents)}
    trials = run.folder / "trials"
    ended = [name for name in trials.list() if (trials / name).exists("result.json")]
    if ended:
        before = run.folder.read_json(CONTENTS) if run.folder.exists(CONTENTS) else {"recipe": "an older one"}
        _require_same(before, now, len(ended), run)
    run.folder.write_json(CONTENTS, now)
    return contents


def _compiled(run: Run) -> bool:
    compiled = run.sweep.scaling.deepspeed.compile
    points = (config.resolve(run.file, point) for point in run.file.corner_points())
    return compiled and any(identity.compiled_numbers(stage, True) for sweep in points for stage in sweep.stages)


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], num_ended: int, run: Run) -> None:
    changed = next((key for key in now if before.get(key) != now[key]), None)
    if changed is None:
        return
    said = {
        "recipe": f"raycodellm's training recipe is {now['recipe']}, was {before.get('recipe')}",
        "compiled": f"scaling.deepspeed.compile, which changes numbers in 16 bits, is {now['compiled']}",
        "lm_eval": f"lm-eval is {now['lm_eval']}, was {before.get('lm_eval')}",
        "models": f"model.pretrained: the content of {_first(before, now, 'models')} has changed",
        "tasks": f"evaluation.tasks: the content of {_first(before, now, 'tasks')} has changed",
    }[changed]
    raise UserError(
        f"{said} since {num_ended} trials of this run ended, so new ones could not be compared with them; put the old "
        f"one back, or give the sweep a new name ({run.folder.uri})"
    )


def _first(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    old = before.get(key) or {}
    return repr(next((name for name, found in now[key].items() if old.get(name) != found), "a name"))

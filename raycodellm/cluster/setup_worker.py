"""What Ray starts for a process that has variables of its own: sets them, and becomes the worker.

Ray's own script of this name imports all of Ray for that, and the worker that it becomes imports it again: 0.45 s of a
core for each of some twenty processes of a sweep. Anything but variables is left to Ray's own. As a script it imports
nothing of the package or of Ray, which asks for a file of this name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command to become, and its environment. `arguments`: the worker's script, its arguments, and Ray's two."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language", default="")
    ours, worker = parser.parse_known_args(list(arguments))
    context = json.loads(ours.serialized_runtime_env_context or "{}")
    variables = context.pop("env_vars", None) or {}
    if context.get("py_executable") == sys.executable:
        del context["py_executable"]
    # A `$` in a value is for Ray to expand.
    plain = not any(context.values()) and not any("$" in value for value in variables.values())
    if plain and ours.language == "PYTHON" and worker:
        return [sys.executable, *worker], {**environment, **variables}
    rays_own = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
    return [sys.executable, rays_own, *arguments], dict(environment)


@contextlib.contextmanager
def in_place_of_rays() -> Iterator[None]:
    """A local cluster that is started inside sets its processes up by this script."""
    # Where a version of Ray has no such constant, it goes on with its own script.
    from ray._private import ray_constants

    rays_own = getattr(ray_constants, "SETUP_WORKER_FILENAME", "setup_worker.py")
    ray_constants.SETUP_WORKER_FILENAME = os.path.abspath(__file__)
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = rays_own


if __name__ == "__main__":
    made, variables = command(sys.argv[1:], os.environ)
    os.execve(made[0], made, variables)

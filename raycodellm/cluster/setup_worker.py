"""Sets the environment variables of a new process and turns the process into a Ray worker.

Ray's own script of this name imports all of Ray, and the worker that it becomes imports Ray again. In the quickstart,
up to its first step, this script saves 4.6 of 41 CPU seconds and 2.3 of 27 s. Everything but variables is left to Ray's
script. Run as a script, this file imports nothing of the package or of Ray. Ray asks for a file of this name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command that the process becomes, and its environment.

    `arguments`: the path of the worker's script, the script's own arguments, and two that Ray adds for `setup_worker`.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language", default="")
    options, worker_command = parser.parse_known_args(list(arguments))
    context = json.loads(options.serialized_runtime_env_context or "{}")
    variables = context.pop("env_vars", None) or {}
    if context.get("py_executable") == sys.executable:
        del context["py_executable"]
    # Ray expands a `$` in a value.
    has_only_variables = not any(context.values()) and not any("$" in value for value in variables.values())
    if has_only_variables and options.language == "PYTHON" and worker_command:
        return [sys.executable, *worker_command], {**environment, **variables}
    rays_script = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
    return [sys.executable, rays_script, *arguments], dict(environment)


@contextlib.contextmanager
def in_place_of_rays() -> Iterator[None]:
    """A local cluster that is started in the body sets its processes up by this script."""
    # A version of Ray without the constant goes on with its own script.
    from ray._private import ray_constants

    original_name = getattr(ray_constants, "SETUP_WORKER_FILENAME", "setup_worker.py")
    ray_constants.SETUP_WORKER_FILENAME = os.path.abspath(__file__)
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = original_name


if __name__ == "__main__":
    new_command, variables = command(sys.argv[1:], os.environ)
    os.execve(new_command[0], new_command, variables)

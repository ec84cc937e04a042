"""The script that Ray starts processes by: the same process as Ray's own script would make, without importing Ray."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from raycodellm.cluster import setup_worker

WORKER = ["/ray/_private/workers/default_worker.py", "--node-ip-address=127.0.0.1", "--gcs-address=a b'c"]


def arguments(language: str = "PYTHON", **context: object) -> list[str]:
    return [*WORKER, f"--serialized-runtime-env-context={json.dumps(context)}", f"--language={language}"]


def test_a_process_with_variables_becomes_the_same_worker_as_by_rays_own_script(monkeypatch) -> None:
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray.core.generated.common_pb2 import Language

    context = RuntimeEnvContext(env_vars={"RAYCODELLM_TEST": "1 2"})
    monkeypatch.setenv("RAYCODELLM_TEST", "0")
    made, environment = setup_worker.command(arguments(**context.__dict__), dict(os.environ))
    became: list[str] = []
    monkeypatch.setattr(os, "execvp", lambda file, args: became.extend(args))
    context.exec_worker(list(WORKER), Language.PYTHON)
    assert shlex.split(became[2]) == ["exec", *made] and environment == dict(os.environ)


@pytest.mark.parametrize(
    "asked",
    [
        arguments(env_vars={"A": "$HOME/x"}),
        arguments(env_vars={"A": "1"}, command_prefix=["nice"]),
        arguments(py_executable="/other/python"),
        arguments(override_worker_entrypoint="/image/default_worker.py"),
        arguments(something_new=True),
        arguments("JAVA"),
    ],
)
def test_what_is_more_than_variables_is_left_to_rays_own_script(asked: list[str]) -> None:
    made, environment = setup_worker.command(asked, {"B": "2"})
    assert made == [sys.executable, "/ray/_private/workers/setup_worker.py", *asked]
    assert environment == {"B": "2"}


def test_the_script_imports_neither_ray_nor_the_package() -> None:
    code = f"import runpy, sys; runpy.run_path({setup_worker.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.split(".")[0] in ("ray", "raycodellm", "numpy")]


def test_ray_is_given_the_script_while_a_cluster_is_started_and_no_longer() -> None:
    from ray._private import ray_constants

    rays_own = ray_constants.SETUP_WORKER_FILENAME
    with setup_worker.in_place_of_rays():
        assert os.path.join("/ray/workers", ray_constants.SETUP_WORKER_FILENAME) == setup_worker.__file__
        assert os.path.basename(setup_worker.__file__) == rays_own  # the raylet looks for this name
    assert rays_own == ray_constants.SETUP_WORKER_FILENAME

"""The environment of the tests, how they are spread over the cores, and what several test files share."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import os
import re
import shutil
import signal
import site
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

UNHEARD = (
    "ACCELERATE_ AWS_ AZURE_ CUBLAS_ CUDA_VISIBLE_ DEEPSPEED_ DS_ FSSPEC_ GIT_ GLOO_ GOOGLE_ HF_ HUGGING KMP_ LMEVAL"
    " LOCAL_ MASTER_ MKL_ NCCL_ NUMEXPR_ OMP_ OPENBLAS_NUM_ OPTUNA_ PYARROW_ PYTHONDONTWRITE PYTHONHASHSEED"
    " PYTHONWARNINGS PYTORCH_ RANK RAY_ SLURM_ STORAGE_EMULATOR_HOST TOKENIZERS_ TORCH TRANSFORMERS_ TUNE_ WORLD_ XDG_"
    " ALL_PROXY HTTP_PROXY HTTPS_PROXY NO_PROXY COLUMNS LINES NO_COLOR FORCE_COLOR TTY_"
)
"""Beginnings, in capitals, of the variables that the package or one of its libraries reads."""
WORKER = "PYTEST_XDIST_WORKER" in os.environ
"""True if this process is one of several that run tests: it inherits the environment of the first."""


def set_environment() -> Path:
    """Removes the user's settings from the environment and sets those of the tests; gives the session's home folder.

    To be called before anything heavy is imported: most libraries read their variables then.
    """
    for name in [name for name in os.environ if name.upper().startswith(tuple(UNHEARD.split()))]:
        del os.environ[name]
    sys.dont_write_bytecode = False  # pytest would compile all test files again in each process, for seconds
    home = Path(tempfile.mkdtemp(prefix="raycodellm-home-"))
    os.environ.update(
        PYTHONUSERBASE=site.getuserbase(),  # what `pip install --user` put into the real home
        HOME=str(home),
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_DISABLE_TELEMETRY="1",
        OMP_NUM_THREADS="1",  # each core has a process of its own, and the models are tiny
    )
    return home


HOME = None if WORKER else set_environment()
GROUPS = Path(os.environ["HOME"]) / "groups.json"
gc.disable()  # until tests are collected: the collector would look through half a million objects again and again


def pytest_unconfigure() -> None:
    if HOME is not None:
        shutil.rmtree(HOME, ignore_errors=True)


# ------------------------------------------------------------------------------------------------- order and cores

TOGETHER = {
    "training": (
        *("test_kill_matrix", "test_stage", "test_trunk", "test_engine", "test_parametrization"),
        *("test_trained_as_evaluated",),
    ),
    "evaluation": (
        *("test_evaluation", "test_code_tasks", "test_contamination", "test_language_model", "test_judge"),
        *("test_kept_results", "test_ma2024", "test_kim2024", "test_task_data", "test_constrained", "test_tasks"),
    ),
}
"""Files of which each process that tests one needs seconds for an import (DeepSpeed, lm-eval): one process tests a row
of them."""
LONG = (
    *("test_pruning", "test_sweep_files", "test_ladder", "test_statistics", "test_regression", "test_search"),
    *("test_damage", "test_writer", "test_offline_suite", "test_tokens"),
)
"""Other files that take long. They come before the rest, so that no process is left alone with one of them."""


GIVES_WAY = 5
"""Niceness of a process that tests what needs no Ray, while another one tests what does and takes longer."""
BEGUN: list[str] = []
"""The group of the first test of this process."""
FILES: list[Path] = []
"""The file of the test before."""


def is_exhaustive(config: pytest.Config) -> bool:
    return re.search(r"(?<!not )\bexhaustive", config.option.markexpr) is not None


def pytest_configure(config: pytest.Config) -> None:
    """Lets Ctrl-C be heard, and chooses the number of examples.

    A property is tried with 25 examples, always the same; with a thousand new ones where -m asks for exhaustive
    tests.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a script's shell sets it for what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.fsync = lambda descriptor: None  # no test cuts the power; what a killed process wrote stays without it
    if not WORKER and getattr(config.option, "numprocesses", None):
        return  # this process only hands out tests, and the others start when it has
    import hypothesis

    always = {"deadline": None, "database": None, "print_blob": True}
    hypothesis.settings.register_profile("some", max_examples=25, derandomize=True, **always)
    hypothesis.settings.register_profile("many", max_examples=1000, **always)
    hypothesis.settings.load_profile("many" if is_exhaustive(config) else "some")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A run of all tests takes all cores, up to eight; a run of chosen files takes one process, unless -n says more."""
    if WORKER or not config.pluginmanager.hasplugin("xdist"):
        return
    option = config.option
    chosen = config.args_source == config.ArgsSource.ARGS or option.collectonly or option.usepdb
    if option.numprocesses is None and not chosen:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        option.numprocesses = min(num_cores, 8) if num_cores > 1 else 0
    if option.numprocesses:
        option.dist, option.loadscopereorder = "loadscope", False


def group_of(item: pytest.Item) -> str:
    """One process runs the tests of a group: all that need Ray, so that no two clusters meet; else those of a file."""
    if item.get_closest_marker("ray"):
        return "ray"
    return next((name for name, files in TOGETHER.items() if item.path.stem in files), item.path.stem)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hands out whole groups, as `group_of` says. Marks of xdist's own (`xdist_group`) do nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return groups()[nodeid]

    @functools.cache
    def groups() -> dict[str, str]:
        return json.loads(GROUPS.read_text())

    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is exhaustive, if -m does not name it, and puts what takes longest first.

    Tests with Ray are the longest, and of these clusters of their own come before the one that others share.
    """
    exhaustive = {item for item in items if item.get_closest_marker("exhaustive")}
    if not is_exhaustive(config):
        config.hook.pytest_deselected(items=list(exhaustive))
        items[:] = [item for item in items if item not in exhaustive]
    place = {name: number for number, name in enumerate(("ray", *TOGETHER, *LONG))}
    items.sort(key=lambda item: (place.get(group_of(item), len(place)), "ray_cluster" in item.fixturenames))
    if WORKER:  # all processes write the same, and the one that hands out reads when all have collected
        GROUPS.write_text(json.dumps({item.nodeid: group_of(item) for item in items}))
    if is_exhaustive(config):
        import hypothesis

        for item in items:
            if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker("exhaustive")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    import hypothesis  # noqa: F401  # its plugin needs it at the end; here the process that hands out tests waits

    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Has a process give way, from its first test on, to another one that tests what needs Ray.

    Before the first test of a file, all objects are kept from the garbage collector: `Engine.close` would look through
    all that DeepSpeed and lm-eval have imported, 0.1 s each time.
    """
    if [item.path] != FILES:
        FILES[:] = [item.path]
        gc.freeze()
    if not WORKER or BEGUN:
        return
    BEGUN.append(group_of(item))
    if BEGUN != ["ray"] and any(group_of(other) == "ray" for other in item.session.items):
        os.nice(GIVES_WAY)


# ------------------------------------------------------------------------------------------------- what is shared

SWEEP = """
name: small
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512, sample_bytes: 200_000}}
sources:
  prose: {kind: text, path: PROSE}
  python: {kind: code, path: CODE}
  asks: {kind: instruct_text, path: ASKS}
stages:
  - name: pretrain
    tokens: 8_192
    sequence_length: 64
    batch_tokens: 1_024
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {uniform: [0.0, 0.75]}}
    schedule: {search: {choice: [constant, increase, decrease]}}
  - name: instruct
    tokens: 2_048
    sequence_length: 256
    batch_tokens: 1_024
    learning_rate: {peak: 1.0e-3, schedule: linear, final: 0.0}
    responses_only: true
    weights: {asks: 1.0}
evaluation: {tasks: [boxes], limit: 8}
search: {trials: 2, sampler: random}
scaling: {slots: 1, checkpoint_seconds: 1}
"""


def make_sweep_text() -> str:
    """A whole sweep file over builtin sources."""
    text = SWEEP.replace("PROSE", '"builtin:python-prose", limit_documents: 200')
    text = text.replace("CODE", '"builtin:python-code", limit_documents: 40')
    return text.replace("ASKS", '"builtin:tasks-instruct", limit_documents: 400')


@pytest.fixture(autouse=True)
def process_left_as_it_was():
    """A process that trained has its rank in the environment, and one that ran a sweep the sweep's signal handlers."""
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name in names:  # also before: a fixture of a whole module may have trained
        os.environ.pop(name, None)
    yield
    for name in names:
        os.environ.pop(name, None)
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture
def no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver takes its run folder without waiting for whether another one writes the owner file just then."""
    from raycodellm.sweep import ownership

    for name in ("LOCAL", "REMOTE"):
        monkeypatch.setattr(ownership, name, dataclasses.replace(getattr(ownership, name), settle=0.0))


@pytest.fixture(scope="session")
def sweep_text() -> str:
    return make_sweep_text()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine that does not reach the hub, has no copies of its data, and has no GPU."""
    from raycodellm.evaluation.data import sources
    from raycodellm.identity import hub_commits

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("raycodellm.memory_needs.gpu_bytes", lambda: [])
    for cached in (hub_commits.commit, sources.hub_silence):
        cached.cache_clear()
    yield
    for cached in (hub_commits.commit, sources.hub_silence):
        cached.cache_clear()


@pytest.fixture(scope="session")
def one_stage_text(sweep_text: str) -> str:
    """The sweep without its second stage, where a second one would only take longer."""
    text = re.sub(r"  - name: instruct\n(    .*\n)+", "", sweep_text)
    return re.sub(r"  asks: .*\n", "", text)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory):
    """The `ray` module, connected to a local Ray with four logical CPUs that all tests share."""
    import ray

    from raycodellm import cluster, config

    log = tmp_path_factory.mktemp("ray") / "ray.log"
    cluster.connect("local", config.Scaling(slots=2), log_to=log)
    yield ray
    cluster.disconnect()


@pytest.fixture(scope="session")
def whole(sweep_text: str, tmp_path_factory: pytest.TempPathFactory):
    """A small sweep that was killed in every way and ran to its end all the same: a `test_runs.Sweep`."""
    from test_runs import none_left_running, run_disturbed

    with none_left_running():  # the fixture that does it for a test begins after this one
        return run_disturbed(tmp_path_factory.mktemp("whole"), sweep_text)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real corpora; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("RAYCODELLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RAYCODELLM_TEST_DATA")
    return folder

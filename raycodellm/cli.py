"""The command line. Exit codes: 0 done, 1 something failed while running, 2 the request was wrong, 130 stopped."""

from __future__ import annotations

import time

_STARTED = time.monotonic()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

from pydantic import ValidationError  # noqa: E402

from raycodellm import __version__, config, search, storage_files  # noqa: E402
from raycodellm.config import UserError, refuse_credentials, without_credentials  # noqa: E402
from raycodellm.files import Damaged, Folder, cache_folder, cause, fingerprint  # noqa: E402

DEFAULT_STORAGE = "~/raycodellm"
DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A user's mistake prints one line and no traceback."""
    options = _parser().parse_args(arguments)
    try:
        _check_addresses(options)
        code = options.command(options)
        sys.stdout.flush()  # here, where an output that takes no more is one line, and not at Python's own end
        return code
    except UserError as error:
        _complain(without_credentials(str(error)))
        return WRONG
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal that was closed
            _complain("stopped")
        return STOPPED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except (OSError, Damaged) as error:  # a disk, a network, a file of the storage
        if getattr(error, "filename", None) is None and _stdout_is_broken():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain(cause(error))
        return FAILED


def _complain(line: str) -> None:
    print(f"raycodellm: {line}", file=sys.stderr)


def _complain_once() -> Callable[[str], None]:
    """Says each line the first time that it comes."""
    said: set[str] = set()

    def complain(line: str) -> None:
        if line not in said:
            said.add(line)
            _complain(line)

    return complain


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _check_addresses(options: argparse.Namespace) -> None:
    """Raises `UserError` where an option holds an address with a key in it, or a storage's address cannot be one."""
    for name, value in vars(options).items():
        if name not in ("command", "address"):  # a dashboard's address goes nowhere but to the dashboard
            for one in value if isinstance(value, list) else [value]:
                refuse_credentials(one)
    if "storage" in options:
        Folder(options.storage)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(without_credentials(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="raycodellm", description="How much code helps a language model reason?")
    parser.add_argument("--version", action="version", version=f"raycodellm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=function)
        return made

    def with_sweep(made: argparse.ArgumentParser, address: bool = True) -> argparse.ArgumentParser:
        made.add_argument("sweep", metavar="SWEEP", help="the sweep file")
        made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="put a value into the file")
        made.add_argument("--storage", default=DEFAULT_STORAGE, metavar="URI", help=f"default {DEFAULT_STORAGE}")
        if address:
            made.add_argument("--address", metavar="A", help="of a running Ray cluster; default: RAY_ADDRESS or local")
        return made

    with_sweep(command("check", check, "validate a sweep file and show what it would do; starts no training"))
    with_sweep(command("run", run, "run a sweep, or continue it exactly"))
    with_sweep(command("prepare", prepare, "make only the token stores"))
    with_sweep(command("submit", submit, "the same run as a Ray job"), address=False).add_argument(
        "--address", required=True, metavar="A", help="of the cluster's dashboard, http://head:8265"
    )
    for name, function, text in (
        ("status", status, "the trials of a run as a table"),
        ("report", write_report, "write report/index.html and report/report.md of a run"),
    ):
        made = command(name, function, text)
        made.add_argument("run", metavar="DIR", help="the run folder, <storage>/<sweep name>")
    made = command("eval", evaluate, "evaluate Hugging Face models")
    made.add_argument("models", nargs="+", metavar="MODEL", help="a model folder or hub id")
    made.add_argument("--tasks", required=True, help="names, separated by commas")
    made.add_argument("--limit", type=int, help="items per task")
    made.add_argument("--few-shot", type=int, default=0)
    made.add_argument("--pairs", action="append", default=[], metavar="BASE=OTHER", help="compare two of the models")
    made.add_argument("--output", metavar="DIR", help="write metrics.json and items.parquet per model here")
    return parser


# ------------------------------------------------------------------------------------------------- sweeps


def run(options: argparse.Namespace) -> int:
    from raycodellm import preflight, sweep

    file = _loaded(options)
    num_trials = search.num_trials(file)
    storage = Folder(options.storage)
    # Before a new run folder is made. One that is there was looked at: when nothing is left to do, nothing is imported.
    is_new = not (storage / file.example().name).exists("sweep.yaml")
    memory_fit = preflight.check_before_start(file, options.address) if is_new else None
    opened = sweep.open_run(file, storage, _complain)
    with sweep.lock(opened) as opened:
        left = num_trials - sweep.tell_written_results(opened, _complain)
        contents = sweep.fix_contents(opened, left)
        if left <= 0:
            print(f"all {num_trials} trials are done; nothing to run")
            return _finish(opened, print, None)
        memory_fit = memory_fit or preflight.check_before_start(file, options.address)
        return _run_left(options, opened, left, num_trials, contents, memory_fit)


def _run_left(
    options: argparse.Namespace, opened: Any, left: int, num_trials: int, contents: Any, memory_fit: Any
) -> int:
    from raycodellm import display, sweep

    timing = sweep.Timing({"imports": time.monotonic() - _STARTED})
    stopper = sweep.Stopper()
    stopper.install()
    log = _log_path(opened.folder)
    again = shlex.join(["raycodellm", "run", options.sweep, *_spelled(options)])
    objective = opened.sweep.search.objectives[0].metric
    with display.quiet(log) as output, display.Display(output, objective, num_trials) as shown:
        shown.say(f"{opened.sweep.name}: {left} of {num_trials} trials to run; writing to {opened.folder.uri}")
        if memory_fit.groups is not None:  # else when the cluster is joined
            shown.say(str(memory_fit))
        shown.say(f"log: {log}; Ctrl-C stops cleanly; continue with: {again}")
        try:
            _run_on_cluster(options, opened, left, shown, timing, stopper, contents, memory_fit)
        except UserError:
            raise
        except KeyboardInterrupt:
            stopper.stopping.set()
        except Exception as error:
            traceback.print_exc()  # to the log: the terminal gets the cause alone
            shown.say(f"failed: {type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}")
            shown.say(f"the log has more: {log}")
            return FAILED
        if stopper.stopping.is_set():
            shown.say(f"stopped; continue with: {again}")
            return STOPPED
        shown.__exit__(None, None, None)
        return _finish(opened, shown.say, timing)


def _run_on_cluster(
    options: argparse.Namespace,
    opened: Any,
    left: int,
    shown: Any,
    timing: Any,
    stopper: Any,
    contents: Any,
    memory_fit: Any,
) -> None:
    from raycodellm import cluster, preflight, sweep

    sweep.clear_scratch(opened)
    # A slot begins in a thread, which imports and asks Ray a hundred small things while this one tokenises. Waiting the
    # usual 5 ms for its turn each time, it would bring the first training step 2 s later.
    sys.setswitchinterval(0.0005)
    scaling = opened.sweep.scaling
    with timing.part("ray start"):
        connected = cluster.connect(options.address, scaling, log_to=_log_path(opened.folder), say=shown.say)
    try:
        reason = connected.placement_problem(scaling)
        if reason:
            raise UserError(f"scaling: {reason}")
        if memory_fit.groups is None:
            shown.say(str(preflight.fit_on_cluster(memory_fit, connected, scaling)))
        fitting = max(1, connected.slots_that_fit(scaling))
        fitting = min(fitting, memory_fit.groups or fitting)
        max_slots = fitting if scaling.slots == "auto" else min(scaling.slots, fitting)
        if connected.dashboard_url:
            shown.say("; ".join([f"dashboard: {connected.dashboard_url}", *connected.notes]))
        held = {"connected": connected, "stopper": stopper, "contents": contents}
        sweep.run_sweep(opened, left, max_slots, shown, timing, **held)
    finally:
        if not _stuck_in_ray():
            cluster.disconnect()


def _finish(opened: Any, say: Any, timing: Any) -> int:
    """Table, report and summary; the exit code says whether a trial failed."""
    from raycodellm import report, sweep

    results = sweep.write_table(opened, say)
    if timing is not None:
        before = storage_files.attempt(lambda: storage_files.read_timing(opened.folder), say, {})
        _write_timing(opened.folder, before, timing.seconds)
        with timing.part("report"):
            report.write_report(opened.folder, opened.storage)
        _write_timing(opened.folder, before, timing.seconds)
    say(report.summary_text(opened.folder, opened.storage))
    failed = [result for result in results if result.state == "failed"]
    for result in failed:
        say(f"trial {result.number:04d} failed: {result.error}")
    if failed:
        say(f"{len(failed)} of {len(results)} trials failed; the log has more: {_log_path(opened.folder)}")
    return FAILED if failed else DONE


def _write_timing(folder: Folder, before: dict[str, float], seconds: dict[str, float]) -> None:
    """Adds the seconds of this run to those `before`; what a newer version wrote beside them stays."""
    kept = storage_files.attempt(lambda: folder.read_json("timing.json"), lambda line: None, {})
    added = {name: before.get(name, 0.0) + seconds.get(name, 0.0) for name in {**before, **seconds}}
    folder.write_json("timing.json", {**kept, **added})


def _spelled(options: argparse.Namespace) -> list[str]:
    """The options of a command as they were given."""
    words = [word for value in options.set for word in ("--set", value)]
    if options.storage != DEFAULT_STORAGE:
        words += ["--storage", options.storage]
    return words + (["--address", options.address] if options.address else [])


def _log_path(folder: Folder) -> Path:
    if folder.local is not None:
        return folder.local / "run.log"
    return cache_folder() / fingerprint(folder.uri) / "run.log"


def _loaded(options: argparse.Namespace) -> config.SweepFile:
    """The sweep file of a command, refused before anything is started for what can be known of it."""
    from raycodellm import evaluation

    file = config.load(options.sweep, tuple(options.set))
    search.num_trials(file)
    evaluation.check_evaluation(file)
    return file


def check(options: argparse.Namespace) -> int:
    from raycodellm import check as checking

    file = _loaded(options)
    storage = Folder(options.storage)
    storage.check_writable("--storage")
    print(checking.describe(file, storage, options.address))
    return DONE


def prepare(options: argparse.Namespace) -> int:
    from raycodellm import check as checking
    from raycodellm import cluster, display, sweep, tokens

    file = _loaded(options)
    sweep.Stopper().install()
    storage = Folder(options.storage)
    storage.prove_writable("--storage")
    log = _log_path(storage / "tokens")
    with display.quiet(log) as output, display.Display(output, "", 0) as shown:
        cluster.connect(options.address, file.example().scaling, log_to=log, say=shown.say)
        try:
            items = checking.items_of(file)
            prepared = tokens.prepare(file.example(), storage, shown.preparing, items)
        finally:
            cluster.disconnect()
        for line in prepared.warnings:
            shown.say(line)
        for name, made in prepared.stores.items():
            shown.say(f"{name}: {made.num_tokens:,} tokens in {made.folder.uri}")
            for line in checking.left_out(made.manifest):
                shown.say(f"  {line}")
            for report in tokens.packing_reports(file.example(), name, made):
                shown.say(f"  {report}")
    return DONE


def submit(options: argparse.Namespace) -> int:
    from raycodellm import cluster

    file = _loaded(options)
    job = cluster.submit(options.sweep, options.address, tuple(options.set), options.storage)
    print(f"submitted {file.example().name} as {job}")
    print(cluster.how_to_follow(without_credentials(options.address), job))
    return DONE


# ------------------------------------------------------------------------------------------- finished runs


def _existing_run(path: str, say: Callable[[str], None]) -> Any:
    from raycodellm import sweep

    folder = Folder(path)
    return sweep.Run(storage_files.read_sweep_file(folder, say), folder.parent)


def status(options: argparse.Namespace) -> int:
    from raycodellm import display, sweep

    say = _complain_once()
    opened = _existing_run(options.run, say)
    results = sweep.read_results(opened, say=say)
    display.console(sys.stdout).print(display.trial_table(results, opened.sweep.search.objectives[0].metric))
    done = sum(result.state in ("complete", "failed") for result in results)
    print(f"{done} of {search.num_trials(opened.file)} trials ended; {opened.folder.uri}")
    return DONE


def write_report(options: argparse.Namespace) -> int:
    from raycodellm import report, sweep

    say = _complain_once()
    opened = _existing_run(options.run, say)
    sweep.write_table(opened, say)
    folder = report.write_report(opened.folder, opened.storage, say)
    print(f"{folder.uri}/index.html")
    return DONE


def evaluate(options: argparse.Namespace) -> int:
    from raycodellm import compare

    settings = _evaluation(options)
    if options.output:
        Folder(options.output).prove_writable("--output")
    print(compare.run(options.models, settings, options.pairs, options.output))
    return DONE


def _evaluation(options: argparse.Namespace) -> config.Evaluation:
    values = {"tasks": options.tasks.split(","), "limit": options.limit, "few_shot": options.few_shot}
    try:
        return config.Evaluation.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][0]}".replace("_", "-") if first["loc"] else "eval"
        said = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
        raise UserError(f"{option}: found {first['input']!r}; {said[0].lower()}{said[1:]}") from error


def entry() -> None:
    """The installed command. Leaves at once where a thread is stuck in Ray: Python's own exit would crash on it."""
    code = main()
    with contextlib.suppress(OSError):  # said already
        sys.stdout.flush()
        sys.stderr.flush()
    if _stuck_in_ray():
        os._exit(code)
    sys.exit(code)


def _stuck_in_ray() -> bool:
    slots = sys.modules.get("raycodellm.slots")
    return slots is not None and slots.threads_left()


if __name__ == "__main__":
    entry()

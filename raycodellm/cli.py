"""The command line: parses arguments, calls one function per command, and turns errors into exit codes.

Exit codes: 0 done, 1 something failed while running, 2 the request was wrong, 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import ValidationError

from raycodellm import notebook
from raycodellm.commands import DONE, FAILED, STOPPED, WRONG, SweepRequest, read_run
from raycodellm.commands import board as boards
from raycodellm.commands import prepare as preparing
from raycodellm.commands import report as reporting
from raycodellm.commands import start as starting
from raycodellm.commands import stop as stopping
from raycodellm.commands import submit as submitting
from raycodellm.commands import suggest as suggesting
from raycodellm.commands.judge_options import judge_of
from raycodellm.commands.parsers import CommandParser, Parser
from raycodellm.commands.request import DEFAULT_STORAGE
from raycodellm.config import Evaluation, UserError, refuse_credentials, without_credentials
from raycodellm.files import Damaged, Folder, cause
from raycodellm.slots.threads import leave
from raycodellm.version import __version__


def entry() -> None:
    """The installed command."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A user's mistake prints one line and no traceback."""
    options = _parser().parse_args(arguments)
    try:
        _check_addresses(options)
        code = options.command(options)
        sys.stdout.flush()  # an output that cannot be written is reported here, and not by Python at its exit
        return code
    except UserError as error:
        _complain(without_credentials(str(error)))
        return WRONG
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be closed
            _complain("stopped")
        return STOPPED
    except BrokenPipeError:  # the reader of the output ended, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except (OSError, Damaged) as error:  # a disk, a network, or a file of the storage
        if getattr(error, "filename", None) is None and _stdout_is_broken():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain(cause(error))
        return FAILED


# ------------------------------------------------------------------------------------------------- arguments


@functools.cache
def _parser() -> argparse.ArgumentParser:
    root = Parser(prog="raycodellm", description="How much code helps a language model reason?")
    root.add_argument("--version", action="version", version=f"raycodellm {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(command=function)
        return parser

    def with_sweep(parser: argparse.ArgumentParser, address: bool = True) -> argparse.ArgumentParser:
        parser.add_argument("sweep", metavar="SWEEP", help="the sweep file")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="put a value into the file; repeatable"
        )
        parser.add_argument("--storage", default=DEFAULT_STORAGE, metavar="URI", help=f"default {DEFAULT_STORAGE}")
        if address:
            parser.add_argument(
                "--address", metavar="A", help="of a running Ray cluster; default: RAY_ADDRESS or local"
            )
        return parser

    text = "validate a sweep file and show what it would do; starts no training"
    _check_options(with_sweep(command("check", check, text)))
    parser = with_sweep(command("run", run, "run a sweep, or continue it exactly"))
    parser.add_argument(
        "--retry-failed", action="store_true", help="run failed trials again, from their finished stages"
    )
    parser.add_argument("--size", metavar="PRESET", help="run one size of a ladder alone")
    parser.add_argument("--rung", dest="size", default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # its older name
    with_sweep(command("prepare", prepare, "make only the token stores"))
    _submit_options(with_sweep(command("submit", submit, "run a sweep on a cluster, as a Ray job"), address=False))
    parser = command("stop", stop, "ask a run to stop cleanly, and wait until it has")
    parser.add_argument("run", metavar="DIR|SWEEP", help="the run folder; with --address the sweep's file or name")
    parser.add_argument("--address", metavar="A", help="of the dashboard of the cluster that runs a submitted sweep")
    parser.add_argument("--storage", metavar="URI", help="where one sweep runs on several storages")

    def with_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("run", metavar="DIR", help="the run folder, <storage>/<sweep name>")
        return parser

    parser = with_run(command("status", status, "how a run stands, and its trials as a table"))
    parser.add_argument("--all", action="store_true", help="all trials, not only the ten newest")
    parser.add_argument("--json", action="store_true", help="one JSON object; docs/notebook.md lists its keys")
    parser = with_run(command("report", report, "write report/index.html and report/report.md of a run"))
    parser.add_argument(
        "--watch", action="store_true", help="write it again as results come, until the sweep has ended"
    )
    parser.add_argument(
        "--pictures", choices=("svg", "png"), help="draw the figures as files too, and show them in report.md"
    )
    _suggest_options(with_run(command("suggest", suggest, "predict the best point of a run, and write points to try")))
    _design_options(with_sweep(command("design", design, "write points to run first, for a fit"), address=False))
    _prune_options(command("prune-storage", prune_storage, "list what no kept sweep needs, ask, and delete only that"))
    parser = command("board", board, "write the Grafana board of all metrics")
    parser.add_argument("--into", metavar="FOLDER", help="default: among the boards of this machine's Ray session")
    _eval_options(command("eval", evaluate, "evaluate Hugging Face models"))
    return root


def _check_options(parser: argparse.ArgumentParser) -> None:
    # `--prices SWEEP` would take the sweep file for a file of prices, so the usage shows the order that works.
    parser.usage = "%(prog)s SWEEP [--set KEY=VALUE] [--storage URI] [--address A] [--prices [FILE]] [--device NAME]"
    parser.add_argument(
        "--prices", nargs="?", const="", metavar="FILE", help="show money too, by the package's prices or by your own"
    )
    parser.add_argument("--device", metavar="NAME", help="reckon for this GPU (L4, H100 …), wherever that is")


def _eval_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model folder or hub id")
    parser.add_argument("--suites", default="", help="names of suites, such as offline, separated by commas")
    parser.add_argument("--tasks", default="", help="names, such as boxes, or YAML files, separated by commas")
    parser.add_argument("--leave-out", default="", help="tasks of the suites to leave out, separated by commas")
    parser.add_argument(
        "--include", metavar="DIR", help="a folder with lm-eval YAML files, whose tasks then go by name"
    )
    parser.add_argument("--data", metavar="DIR", help="a folder with copies of the data sets of the Hugging Face hub")
    parser.add_argument("--limit", type=int, help="items per task; default: all")
    parser.add_argument(
        "--few-shot", type=_examples, default=0, metavar="N", help="examples in a prompt; own: each task's own number"
    )
    parser.add_argument("--backend", default="transformers", help="what writes generated answers: transformers or vllm")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences per forward pass")
    parser.add_argument("--device", help="such as cpu or cuda:1; a GPU, if the machine has one, when left out")
    parser.add_argument(
        "--scoring", default="likelihood", help="likelihood (of the answer) or channel (of the question)"
    )
    parser.add_argument("--rationale", default="none", help="in the prompt: none, oracle or generated")
    parser.add_argument(
        "--texts",
        action="append",
        default=[],
        metavar="DOMAIN=PATH",
        help="text to measure bits per byte on; repeatable",
    )
    parser.add_argument("--samples", type=int, default=1, help="programs per item of tasks that run code")
    parser.add_argument("--temperature", type=float, help="of these programs; 0 is greedy")
    parser.add_argument("--decoding", default="free", help="of generated answers: free or constrained (to a pattern)")
    parser.add_argument(
        "--pairs", action="append", default=[], metavar="BASE=OTHER", help="compare two of the models; repeatable"
    )
    parser.add_argument("--judge", metavar="URL", help="for the suite win-rate: an OpenAI-compatible endpoint, …/v1")
    parser.add_argument("--judge-model", metavar="NAME", help="the judge's name at the endpoint")
    parser.add_argument("--judge-key", metavar="VARIABLE", help="environment variable that holds the endpoint's key")
    parser.add_argument("--judge-rate", type=float, metavar="N", help="most requests to the judge in a minute")
    parser.add_argument("--instructions", metavar="FILE", help="JSON lines with instruction and context, or prompt")
    parser.add_argument("--output", metavar="DIR", help="write metrics.json and items.parquet per model here")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables; docs/evaluation.md")


def _suggest_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, default=3, metavar="N", help="points to try next; default 3")
    parser.add_argument("--metric", metavar="M", help="default: the sweep's first objective")
    parser.add_argument("--mode", choices=("min", "max"), help="for a metric whose name does not tell what is better")
    parser.add_argument("--into", metavar="FILE", help="write the points here; default: print them as YAML")
    parser.add_argument("--against", metavar="DIR2", help="print the last predictions beside what this run measured")


def _prune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("storage", metavar="URI", help="the storage of the runs, as given to run --storage")
    parser.add_argument(
        "--forget", action="append", default=[], metavar="NAME", help="a sweep or ladder to delete, with what it needs"
    )
    parser.add_argument(
        "--drop-training-state",
        action="store_true",
        help="delete, too, what finished sweeps need only to train more: optimizer states and trunks",
    )
    parser.add_argument("--grace", type=float, metavar="HOURS", help="what is younger stays; default 24")
    parser.add_argument(
        "--follow-links", action="store_true", help="delete from stages/ and the like where these are links, too"
    )
    parser.add_argument("--yes", action="store_true", help="delete without a question")
    parser.add_argument("--all", action="store_true", help="list every item, not only the five largest of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON object; docs/cluster.md lists its keys")


def _design_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, default=24, metavar="N", help="points to write; default 24")
    parser.add_argument("--kind", choices=("d-optimal", "dirichlet"), default="d-optimal", help="default: d-optimal")
    parser.add_argument(
        "--concentration", type=float, default=1.0, metavar="C", help="of dirichlet: below 1 few sources, above 1 even"
    )
    parser.add_argument("--into", metavar="FILE", help="write the points here; default: print them as YAML")


def _examples(text: str) -> int | None:
    """The number of examples in a prompt; None for each task's own."""
    if text == "own":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be a whole number, or own") from error


def _submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", required=True, metavar="A", help="of the cluster's dashboard, http://head:8265")
    parser.add_argument("--size", metavar="PRESET", help="run one size of a ladder alone")
    parser.add_argument("--rung", dest="size", default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # its older name
    parser.add_argument(
        "--detach", action="store_true", help="leave when the job is submitted; default: follow its output"
    )
    parser.add_argument(
        "--package",
        choices=("auto", "send", "installed"),
        default="auto",
        help="whether raycodellm goes along: where the nodes lack this version (auto, the default), always, or never",
    )


def _check_addresses(options: argparse.Namespace) -> None:
    """Raises `UserError` for an address with a key in it, and for a storage that cannot be one."""
    for name, value in vars(options).items():
        if name not in ("command", "address"):  # the address of a dashboard is written into no record
            for text in value if isinstance(value, list) else [value]:
                refuse_credentials(text)
    if getattr(options, "storage", None) is not None:
        if not options.storage.strip():  # such as "$STORAGE" without a value: it would be the working directory
            raise UserError("the storage's address is empty; give a folder, or an address such as s3://bucket/folder")
        Folder(options.storage)


def _request(options: argparse.Namespace) -> SweepRequest:
    return SweepRequest(options.sweep, tuple(options.set), options.storage, options.address)


def _evaluation(options: argparse.Namespace) -> Evaluation:
    values = {key: getattr(options, key) for key in Evaluation.model_fields if hasattr(options, key)}
    values["judge"] = judge_of(options)
    values |= {key: [name for name in values[key].split(",") if name] for key in ("suites", "tasks", "leave_out")}
    values["texts"] = dict(text.partition("=")[::2] for text in options.texts)
    try:
        return Evaluation.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise UserError("eval: names no suites and no tasks; give --suites offline, or --tasks boxes") from error
        option = f"--{first['loc'][0]}".replace("_", "-")
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
        raise UserError(f"{option}: found {first['input']!r}; {reason[0].lower()}{reason[1:]}") from error


# ------------------------------------------------------------------------------------------------- commands


def check(options: argparse.Namespace) -> int:
    location = {"storage": options.storage, "address": options.address, "overrides": options.set}
    print(notebook.check_sweep(options.sweep, **location, device=options.device, prices=options.prices))
    return DONE


def run(options: argparse.Namespace) -> int:
    request = replace(_request(options), retry_failed=options.retry_failed, size=options.size)
    return starting.run(request, _complain)


def prepare(options: argparse.Namespace) -> int:
    return preparing.prepare(_request(options), _complain)


def submit(options: argparse.Namespace) -> int:
    choices = submitting.Submitting(options.detach, options.package)
    return submitting.submit(replace(_request(options), size=options.size), choices, _complain)


def stop(options: argparse.Namespace) -> int:
    return stopping.stop(options.run, options.address, options.storage, lambda line: print(line, flush=True))


def status(options: argparse.Namespace) -> int:
    return read_run.status(options.run, _complain_once(), options.all, options.json)


def report(options: argparse.Namespace) -> int:
    return reporting.report(options.run, options.watch, _complain_once(), options.pictures)


def suggest(options: argparse.Namespace) -> int:
    choices = suggesting.Suggesting(options.points, options.metric, options.mode, options.into, options.against)
    return suggesting.suggest(options.run, choices, _complain_once())


def design(options: argparse.Namespace) -> int:
    from raycodellm.commands import design as designing

    choices = designing.Designing(options.points, options.kind, options.concentration, options.into)
    request = SweepRequest(options.sweep, tuple(options.set), options.storage, None)
    return designing.design(request, choices, _complain)


def prune_storage(options: argparse.Namespace) -> int:
    from raycodellm.commands import prune as pruning

    choices = pruning.Pruning(
        forget=tuple(options.forget),
        drop_training_state=options.drop_training_state,
        grace_hours=pruning.GRACE_HOURS if options.grace is None else options.grace,
        yes=options.yes,
        show_all=options.all,
        as_json=options.json,
        follow_links=options.follow_links,
    )
    return pruning.prune(options.storage, choices, _complain)


def board(options: argparse.Namespace) -> int:
    return boards.write_board(options.into)


def evaluate(options: argparse.Namespace) -> int:
    settings = _evaluation(options)

    from raycodellm import compare, display

    if options.output:
        Folder(options.output).prove_writable("--output")
    with display.display_on(sys.stderr, display.Shown()) as live_display:
        live_display.waits_for("the models and the tasks to load")
        scores = compare.run(
            options.models,
            settings,
            options.pairs,
            options.output,
            live_display.evaluating,
            live_display.say,
            device=options.device,
        )
    print(
        compare.as_json(scores) if options.json else compare.text(scores, shutil.get_terminal_size((200, 24)).columns)
    )
    return DONE


# ------------------------------------------------------------------------------------------------- errors


def _complain(line: str) -> None:
    print(f"raycodellm: {line}", file=sys.stderr)


def _complain_once() -> Callable[[str], None]:
    """A function that prints each line the first time that it is given."""
    printed: set[str] = set()

    def complain(line: str) -> None:
        if line not in printed:
            printed.add(line)
            _complain(line)

    return complain


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


if __name__ == "__main__":
    entry()

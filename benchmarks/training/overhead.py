"""The cost of the platform while it trains: a stage as a sweep trains it, against a bare DeepSpeed loop.

Both sides run in the same Ray Train workers, one after the other and several times, on the same model, order of tokens
and batches. The platform side is `stage.train_stage`: Ray Data reads the plan, every step is counted per source and
agreed on by the workers, metrics, ledger, progress to an actor, checkpoints at their default interval. The bare loop
has its batches in memory as tensors and does backward and step, nothing else: once with the platform's loss, once with
the Hugging Face model's own. Start-up, the first steps and the export are in neither.

    python benchmarks/training/overhead.py                  # tiny, 1 and 2 workers
    python benchmarks/training/overhead.py --preset nano --tokens 32768 --rounds 3
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

SIDES = {
    "platform": "platform",
    "bare": "bare DeepSpeed loop, same loss",
    "hugging face": "bare DeepSpeed loop, Hugging Face's loss",
}
SKIPPED = 3
"""Steps at the beginning of each stage that are in no figure."""
TIMED = {
    "should_stop": "asking whether to stop",
    "Engine.begin_step": "engine: the step itself",
    "Engine._totals": "… of it, telling all workers losses and counts",
    "TrainingLoop._drawn_counts": "counting what was drawn",
    "TrainingLoop._count": "counting what was trained, its checksum",
    "TrainingLoop._close_step": "watching the loss, rows of metrics",
    "ProgressReporter.report_step": "progress reports",
    "StageCheckpoints.save": "checkpoints",
}


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="raycodellm-overhead-") as temporary:
        folder = Path(options.folder or temporary)
        rounds_by_world = _measure(options, folder)
    text = _common.header(
        f"What the platform costs while it trains ({options.preset})",
        *("raycodellm", "ray", "deepspeed", "torch", "transformers"),
        notes=[
            f"{options.tokens:,} tokens a stage of {options.batch_tokens:,} a step, sequences of "
            f"{options.sequence_length}, ZeRO 1, fp32; the first {SKIPPED} steps left out",
            f"{options.rounds} rounds of all sides in turn, after one that is not counted; medians, and the ratio's "
            "least and greatest over the rounds; CPU seconds are those of the training processes",
        ],
    )
    text += "\n" + _common.table(
        ["workers", "side", "tokens/s", "CPU s per 1e6 tokens", "platform / side", "least", "greatest"],
        [row for world, rounds in rounds_by_world.items() for row in _rows(world, rounds, options)],
    )
    text += "\nWhere the platform's time goes, ms per step of rank 0:\n\n" + _common.table(
        ["part", *(f"{world} worker{'s' if world > 1 else ''}" for world in rounds_by_world)],
        [
            (
                name,
                *(
                    statistics.median(measured_round["parts"].get(key, 0.0) for measured_round in rounds)
                    for rounds in rounds_by_world.values()
                ),
            )
            for key, name in {"whole": "whole step", "wait": "waiting for data", **TIMED}.items()
        ],
    )
    _common.finish(text, options.out)


def _options() -> Any:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", help="of the model")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=131_072, help="of each stage")
    parser.add_argument("--batch-tokens", type=int, default=4_096)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reader", choices=["ray", "thread"], default="ray")
    return parser.parse_args()


def _rows(world: int, rounds: list[dict[str, Any]], options: Any) -> list[tuple[Any, ...]]:
    rows = []
    for side, label in SIDES.items():
        seconds = [measured_round["seconds"][side] for measured_round in rounds]
        cpu = [measured_round["cpu_seconds"][side] for measured_round in rounds]
        ratios = [measured_round["seconds"][side] / measured_round["seconds"]["platform"] for measured_round in rounds]
        tokens = rounds[0]["tokens"]
        rows.append(
            (
                *(world, label, tokens / statistics.median(seconds), statistics.median(cpu) / tokens * 1e6),
                *(statistics.median(ratios), min(ratios), max(ratios)),
            )
        )
    return rows


# ------------------------------------------------------------------------------------------------- the driver's side


def _measure(options: Any, folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Number of workers -> a record per round."""
    from raycodellm import cluster, config, tokens
    from raycodellm.files import Folder

    file = config.parse(_sweep(options), origin="overhead.yaml")
    sweep = file.example()
    storage = Folder(str(folder))
    scaling = sweep.scaling.model_copy(update={"workers": max(options.workers)})
    cluster.connect(None, scaling, log_to=folder / "run.log")
    try:
        prepared = tokens.prepare(sweep, storage)
        return {world: _in_workers(world, sweep, prepared, storage, options) for world in options.workers}
    finally:
        cluster.disconnect()


def _sweep(options: Any) -> str:
    return f"""
name: overhead
model: {{preset: {options.preset}}}
tokenizer: {{train: {{vocab_size: 4096, sample_bytes: 4_000_000}}}}
sources:
  prose: {{kind: text, path: "builtin:python-prose"}}
  python: {{kind: code, path: "builtin:python-code"}}
stages:
  - name: overhead
    tokens: {options.tokens}
    sequence_length: {options.sequence_length}
    batch_tokens: {options.batch_tokens}
    learning_rate: {{peak: 3.0e-3, schedule: cosine, warmup: 0.05, final: 0.1}}
    code_ratio: 0.4
    schedule: increase
evaluation: {{tasks: [boxes]}}
search: {{trials: 1, sampler: random, objective: {{metric: mean/bpb, mode: min}}}}
scaling: {{workers: 1, slots: 1, reader: {options.reader}, deepspeed: {{zero: 1}}}}
"""


def _in_workers(world: int, sweep: Any, prepared: Any, storage: Any, options: Any) -> list[dict[str, Any]]:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raycodellm import stage_store

    materials = stage_store.Materials(
        corpora=prepared.stores,
        tokenizer=prepared.tokenizer_folder,
        tokenizer_fingerprint=prepared.tokenizer_fingerprint,
        vocab_size=prepared.vocab_size,
        storage=storage,
        contents=stage_store.contents_of([sweep]),
    )

    def job_of(seed: int) -> Any:
        job = stage_store.chain(sweep, seed, materials).stages[0]
        scaling = job.scaling.model_copy(update={"workers": world})
        # Of its own for each number of workers: a finished stage would only be read.
        return replace(job, scaling=scaling, folder=f"{job.folder}-{world}")

    class Listener:
        """Stands for the dispatcher: hears how far the stage is, and never stops it."""

        def report(self, slot: str, incarnation: int, progress: Any) -> bool:
            return False

    rounds_file = storage.local / f"measured-{world}.json"
    settings = {
        "jobs": [job_of(seed) for seed in range(options.rounds + 1)],
        "listener": ray.remote(num_cpus=0)(Listener).remote(),
        "told": str(rounds_file),
    }
    run = RunConfig(name=f"overhead-{world}", storage_path=str(storage.local / "slots"))
    TorchTrainer(
        _loop, train_loop_config=settings, scaling_config=ScalingConfig(num_workers=world), run_config=run
    ).fit()
    return json.loads(rounds_file.read_text())[1:]


# ------------------------------------------------------------------------------------------------- inside the workers


def _loop(settings: dict[str, Any]) -> None:
    import json as to_json
    from pathlib import Path as path

    import ray.train

    from raycodellm import engine
    from raycodellm.engine import World

    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), world_size=context.get_world_size(), device="cpu")
    engine.init_process(world, num_threads=1)
    rounds = []
    for number, job in enumerate(settings["jobs"]):
        sides = {
            "platform": lambda: _platform(job, world, settings["listener"]),  # noqa: B023 - called in this round
            "bare": lambda: _bare(job, world, own_loss=False),  # noqa: B023
            "hugging face": lambda: _bare(job, world, own_loss=True),  # noqa: B023
        }
        order = list(sides)
        order = order[number % 3 :] + order[: number % 3]
        measurements = {side: sides[side]() for side in order}
        rounds.append(
            {
                "tokens": (job.stage.num_steps - SKIPPED) * job.stage.batch_tokens,
                "seconds": {side: seconds for side, (seconds, _, _) in measurements.items()},
                "cpu_seconds": {
                    side: sum(engine.gather(world, cpu)) for side, (_, cpu, _) in sorted(measurements.items())
                },
                "parts": measurements["platform"][2],
            }
        )
    if world.rank == 0:
        path(settings["told"]).write_text(to_json.dumps(rounds))


def _platform(job: Any, world: Any, listener: Any) -> tuple[float, float, dict[str, float]]:
    """Seconds of the steps after the first ones, of this process's CPU too, and ms per step of the parts."""
    import time

    from raycodellm.engine import Engine
    from raycodellm.slots.client import DispatcherClient
    from raycodellm.stage import train_stage
    from raycodellm.stage.checkpoints import StageCheckpoints
    from raycodellm.stage.loop import TrainingLoop
    from raycodellm.stage.progress import ProgressReporter

    link = DispatcherClient(listener, "overhead")
    link.begin()
    step_starts: list[tuple[float, float]] = []
    spent: dict[str, float] = {}
    waited: list[float] = []

    def should_stop() -> bool:  # the first thing of a step, once its batch is there
        step_starts.append((time.perf_counter(), time.process_time()))
        stops = link.should_stop()
        spent["should_stop"] = spent.get("should_stop", 0.0) + time.perf_counter() - step_starts[-1][0]
        return stops

    def timed(owner: Any, name: str, key: str) -> None:
        function = getattr(owner, name)

        def measured(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[key] = spent.get(key, 0.0) + time.perf_counter() - start

        undo.append((owner, name, function))
        setattr(owner, name, measured)

    undo: list[tuple[Any, str, Any]] = []
    owners = {owner.__name__: owner for owner in (Engine, TrainingLoop, ProgressReporter, StageCheckpoints)}
    for key in TIMED:
        owner, _, name = key.partition(".")
        if name:
            timed(owners[owner], name, key)
    count = TrainingLoop._count

    def counted(self: Any, batch: Any, *arguments: Any) -> Any:
        waited.append(batch.wait_seconds)
        return count(self, batch, *arguments)

    TrainingLoop._count = counted
    try:
        train_stage(job, world, on_progress=link.progress, should_stop=should_stop, use_ray_data=True)
    finally:
        TrainingLoop._count = count
        for owner, name, function in reversed(undo):
            setattr(owner, name, function)
    # From the start of a step to the start of the last one: as many steps, data waits and reports.
    (start, cpu), (end, cpu_end) = step_starts[SKIPPED - 1], step_starts[-1]
    steps = len(step_starts) - SKIPPED
    parts = {key: seconds / len(step_starts) * 1e3 for key, seconds in spent.items()}
    parts |= {"whole": (end - start) / steps * 1e3, "wait": sum(waited[SKIPPED:]) / steps * 1e3}
    return end - start, cpu_end - cpu, parts


def _bare(job: Any, world: Any, own_loss: bool) -> tuple[float, float, dict[str, float]]:
    """The same steps by DeepSpeed alone; `own_loss`: the Hugging Face model's."""
    import time

    import deepspeed
    import torch

    from raycodellm import ingest, mixture, model
    from raycodellm.engine import deepspeed_config
    from raycodellm.engine.loss import TrainedModel
    from raycodellm.learning_rate import learning_rate_at
    from raycodellm.stage import open_stores

    stage = job.stage
    reading = ingest.steps(
        *(mixture.make_plan(job), open_stores(job), stage.sequence_length, stage.batch_sequences, 0),
        rank=world.rank,
        world_size=world.world_size,
    )
    batches = [batch.micro_batches[0] for batch in reading]
    built = model.build(job.model, job.vocab_size, job.seed)
    built.train()
    trained = built if own_loss else TrainedModel(built)
    decayed = [p for p in trained.parameters() if p.ndim >= 2]
    others = [p for p in trained.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": stage.optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}],
        *(0.0, stage.optimizer.betas, stage.optimizer.epsilon),
        fused=True,
    )
    config = deepspeed_config(stage, job.scaling, world, 1)
    engine, *_ = deepspeed.initialize(model=trained, optimizer=adam, config=config, dist_init_required=False)
    for step, batch in enumerate(batches):
        if step == SKIPPED:
            start, cpu = time.perf_counter(), time.process_time()
        for group in adam.param_groups:
            group["lr"] = learning_rate_at(stage.learning_rate, step, stage.num_steps)
        tokens, labels = batch["tokens"], batch["labels"]
        if own_loss:
            loss = engine(input_ids=tokens, labels=labels, use_cache=False).loss
        else:
            loss = engine(tokens, labels)[0] / (tokens.numel() - len(tokens))
        engine.backward(loss)
        engine.step()
    end, cpu_end = time.perf_counter(), time.process_time()
    engine.destroy()
    return end - start, cpu_end - cpu, {}


if __name__ == "__main__":
    main()

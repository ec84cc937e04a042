"""The usual way to run a sweep: Ray Tune with OptunaSearch, and one Ray Train TorchTrainer per trial.

Each trainer trains with DeepSpeed and evaluates with lm-eval. The script is as short as it honestly can be;
`startup.py` runs it and reads the events that it writes. Two advantages are given to it: DeepSpeed compiles nothing at
start-up (20 s), and the token stores exist.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path

SETTINGS = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def note(settings: dict, trial: str, event: str) -> None:
    """Appends [trial, event, Unix seconds] to the events' file; `trial` is "" for the driver."""
    with open(settings["events"], "a", encoding="utf-8") as file:
        file.write(json.dumps([trial, event, time.time()]) + "\n")


def train(config: dict) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops
    import lm_eval
    import lm_eval.tasks
    import numpy as np
    import ray.train
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    from raycodellm import model, tasks, tokens
    from raycodellm.config import Model
    from raycodellm.files import Folder

    settings, trial = config["settings"], config["trial"]
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rows, length = settings["rows"], settings["sequence_length"]
    text, code = (tokens.TokenStore.open(Folder(settings[kind])) for kind in ("text", "code"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["tokenizer"])
    net = model.build(Model(preset=settings["preset"]), len(tokenizer), 0)
    ds = {"train_micro_batch_size_per_gpu": rows, "zero_optimization": {"stage": 1}, "gradient_clipping": 1.0}
    ds |= {"steps_per_print": 10**9, "zero_force_ds_cpu_optimizer": False}
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3, fused=True)
    engine, *_ = deepspeed.initialize(model=net, optimizer=adam, config=ds)
    net.train()
    for step in range(settings["steps"]):
        row_numbers = np.arange(step * rows, (step + 1) * rows)
        num_code = round(rows * config["code_ratio"])
        parts = [code.read(row_numbers[:num_code], length)[0], text.read(row_numbers[num_code:], length)[0]]
        batch = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        engine.backward(engine(input_ids=batch, labels=batch, use_cache=False).loss)
        engine.step()
        if step in (0, settings["steps"] - 1):
            note(settings, trial, "last_step" if step else "first_step")
    net.eval()
    manager = lm_eval.tasks.TaskManager(include_path=str(tasks.FOLDER), include_defaults=False)
    lm = HFLM(pretrained=net, tokenizer=tokenizer, batch_size=32)
    arguments = {"tasks": settings["tasks"], "limit": settings["limit"], "task_manager": manager, "bootstrap_iters": 0}
    results = lm_eval.simple_evaluate(lm, **arguments)["results"]
    note(settings, trial, "evaluated")
    score = float(np.mean([results[name]["acc,none"] for name in settings["tasks"]]))
    ray.train.report({"score": score}, checkpoint=None)


def run_trial(config: dict, settings: dict) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = repr(config["code_ratio"])  # known to Optuna too
    loop = {**config, "settings": settings, "trial": trial}
    run = RunConfig(name=f"trial-{trial}", storage_path=settings["folder"], callbacks=[TuneReportCallback()])
    TorchTrainer(train, train_loop_config=loop, scaling_config=ScalingConfig(num_workers=1), run_config=run).fit()


def main() -> None:
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    note(SETTINGS, "", "imported")
    ray.init(num_cpus=4, dashboard_host="127.0.0.1", log_to_driver=False)
    note(SETTINGS, "", "ray is up")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(SETTINGS["journal"]))
    search = OptunaSearch({"code_ratio": tune.uniform(0.0, 0.75)}, metric="score", mode="max", storage=storage)
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(run_trial, settings=SETTINGS), {"CPU": 0.01}),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=SETTINGS["trials"], max_concurrent_trials=2),
        run_config=tune.RunConfig(name="tune", storage_path=SETTINGS["folder"], verbose=0),
    )
    failed = tuner.fit().errors
    if failed:
        raise failed[0]


if __name__ == "__main__":
    Path(SETTINGS["folder"]).mkdir(parents=True, exist_ok=True)
    main()

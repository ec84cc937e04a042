"""`raycodellm prepare`: makes the token stores of a sweep, and nothing else."""

from __future__ import annotations

from raycodellm.commands.request import DONE, SweepRequest, log_path


def prepare(request: SweepRequest) -> int:
    """Makes the token stores, and says how large each is and what it leaves out; returns the exit code."""
    file = request.load()

    from raycodellm import check, cluster, display, sweep, tokens

    sweep.Stopper().install()
    storage, settings = request.storage, file.example()
    storage.prove_writable("--storage")
    log = log_path(storage / "tokens")
    with display.quiet(log) as output, display.Display(output, [], 0) as shown:
        cluster.connect(request.address, settings.scaling, log_to=log, say=shown.say)
        try:
            prepared = tokens.prepare(settings, storage, shown.preparing, check.items_of(file))
        finally:
            cluster.disconnect()
        for line in prepared.warnings:
            shown.say(line)
        for name, store in prepared.stores.items():
            shown.say(f"{name}: {store.num_tokens:,} tokens in {store.folder.uri}")
            for line in check.left_out(store.manifest):
                shown.say(f"  {line}")
            for report in tokens.packing_reports(settings, name, store):
                shown.say(f"  {report}")
    return DONE

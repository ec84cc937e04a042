"""`raycodellm prepare`: makes the token stores of a sweep, and nothing else."""

from __future__ import annotations

from raycodellm.commands.request import DONE, SweepRequest, log_path


def prepare(request: SweepRequest) -> int:
    """Makes the token stores, and says how large each is and what it leaves out; returns the exit code."""
    file = request.load()

    from raycodellm import check, cluster, display, sweep, tokens

    storage, settings = request.storage, file.example()
    storage.prove_writable("--storage")
    log = log_path(storage / "tokens")
    with (
        sweep.Stopper().installed(),
        display.quiet(log) as output,
        display.display_on(output, display.Shown()) as shown,
    ):
        shown.waits_for("the Ray cluster")
        cluster.connect(request.address, settings.scaling, log_to=log, say=shown.say)
        try:
            shown.waits_for("the lists of the sources' files")
            prepared = tokens.prepare(settings, storage, shown.preparing, check.items_of(file))
        finally:
            shown.waits_for("Ray to end")
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

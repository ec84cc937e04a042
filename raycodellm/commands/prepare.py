"""`raycodellm prepare`: makes the token stores of a sweep, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from raycodellm.commands.request import DONE, SweepRequest, log_path
from raycodellm.config import SweepFile


def prepare(request: SweepRequest, complain: Callable[[str], None]) -> int:
    """Makes the token stores, and says how large each is and what it leaves out; returns the exit code."""
    with request.opened(complain) as file:
        if file.example().ladder is not None:
            from raycodellm import ladder

            file = ladder.sizes_of(file)[-1].file  # all sizes read the same stores
        return _prepare(request, file)


def _prepare(request: SweepRequest, file: SweepFile) -> int:
    from raycodellm import check, cluster, display, sweep, tokens
    from raycodellm.cluster import shared_storage

    storage, settings = request.storage, file.example()
    if not settings.sources:
        print("nothing to prepare: the sweep has no sources")
        return DONE
    storage.prove_writable("--storage")
    log = log_path(storage / "tokens")
    with (
        sweep.Stopper().installed(),
        display.quiet(log) as output,
        display.display_on(output, display.Shown()) as monitor,
    ):
        monitor.waits_for("the Ray cluster")
        connected = cluster.connect(request.address, settings.scaling, log_to=log, say=monitor.say)
        try:
            if not connected.started_here:
                monitor.waits_for("the nodes to see the storage")
                shared_storage.require_seen(storage)
            monitor.waits_for("the lists of the sources' files")
            prepared = tokens.prepare(settings, storage, monitor.preparing, check.items_of(file))
        finally:
            monitor.waits_for("Ray to end")
            cluster.disconnect()
        for line in prepared.warnings:
            monitor.say(line)
        for name, store in prepared.stores.items():
            monitor.say(f"{name}: {store.num_tokens:,} tokens in {store.folder.uri}")
            for line in check.left_out(store.manifest):
                monitor.say(f"  {line}")
            for report in tokens.packing_reports(settings, name, store):
                monitor.say(f"  {report}")
    return DONE

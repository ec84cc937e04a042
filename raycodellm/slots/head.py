"""The head node, where everything of a sweep lives that holds no device: trials, dispatcher, Ray Train's controllers.

A helper on any other node would take a part of that node from a slot that needs the whole of it, would die with a spot
node, and would keep an autoscaler from taking an idle node back.
"""

from __future__ import annotations

HEAD_RESOURCE = "node:__internal_head__"
"""A resource of which the head node alone has one unit."""
ON_HEAD = {HEAD_RESOURCE: 0.001}
"""Asked for by an actor or a task without CPUs, places it on the head, also on one that Ray may use no CPU of."""


def settle_ray_data() -> None:
    """Has Ray Data start its actors for the whole cluster on the head node; returns at once.

    Ray Data starts these once per cluster, on the node of whoever reads first, and they stay there for good: on a
    worker node they would keep the autoscaler from ever taking that node back.
    """
    import ray

    from raycodellm import ingest

    ray.remote(num_cpus=0, resources=ON_HEAD, max_retries=0)(ingest.preload).options(name="settle Ray Data").remote()

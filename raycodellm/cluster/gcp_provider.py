"""A node provider for Ray's autoscaler on Google Cloud: spot machines, and machines on demand where there are none.

A cluster file names it: `provider: {type: external, module: raycodellm.cluster.gcp_provider.SpotOrOnDemand, …}`. See
`aws_provider` for why Ray's own provider does not do so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

NO_SPOT_MACHINE = (
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "RESOURCE_POOL_EXHAUSTED",
    "STOCKOUT",
    "QUOTA_EXCEEDED",
    "quotaExceeded",
)
"""Words of Google's errors for a spot machine that cannot be had now, or of which the project may have no more."""

logger = logging.getLogger(__name__)


class SpotOrOnDemand(GCPNodeProvider):
    """Ray's provider for Google Cloud; a spot machine that Google does not have is started on demand."""

    def create_node(self, base_config: dict[str, Any], tags: dict[str, Any], count: int) -> dict[str, Any]:
        """Starts `count` machines, one after the other: after an error nobody knows how many of a batch were started.

        Raises Google's error where a machine cannot be had on demand either.
        """
        on_demand = on_demand_config(base_config)
        if on_demand is None:
            return super().create_node(base_config, tags, count)
        created: dict[str, Any] = {}
        for _ in range(count):
            try:
                created.update(super().create_node(base_config, tags, 1))
            except Exception as error:  # Ray raises Google's answer as a plain Exception
                if not any(word in str(error) for word in NO_SPOT_MACHINE):
                    raise
                logger.warning("Google has no spot %s: starting on demand", base_config.get("machineType"))
                created.update(super().create_node(on_demand, tags, 1))
        return created


def on_demand_config(base_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the machine on demand, labelled so; None where `base_config` asks for no spot machine."""
    scheduling = base_config.get("scheduling", {})
    if scheduling.get("provisioningModel") != "SPOT":
        return None
    retained_scheduling = {key: value for key, value in scheduling.items() if key == "onHostMaintenance"}
    labels = {**base_config.get("labels", {}), "raycodellm-market": "on-demand"}
    return {**base_config, "scheduling": {**retained_scheduling, "provisioningModel": "STANDARD"}, "labels": labels}

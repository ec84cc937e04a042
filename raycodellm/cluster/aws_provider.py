"""A node provider for Ray's autoscaler on AWS: spot machines, and machines on demand where AWS has no spot machine.

A cluster file names it: `provider: {type: external, module: raycodellm.cluster.aws_provider.SpotOrOnDemand, …}`. Ray's
own provider tries each zone and gives up, and Ray's autoscaler then asks for the same kind of machine again: Ray 2.60
remembers a kind as unavailable only if a machine was granted and never started.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

NO_SPOT_MACHINE = (
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
)
"""AWS's error codes for a spot machine that cannot be had now."""
ON_DEMAND_TAG = {"Key": "raycodellm-market", "Value": "on-demand"}
"""The tag of a machine that was started on demand in place of a spot machine; bills can be split by it."""

logger = logging.getLogger(__name__)


class SpotOrOnDemand(AWSNodeProvider):
    """Ray's provider for AWS; a spot machine that AWS does not have is started on demand."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, Any], count: int) -> dict[str, Any]:
        """Starts up to `count` machines, as Ray asks for them. Raises `NodeLaunchException` where AWS starts none."""
        try:
            return super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            on_demand = on_demand_config(node_config)
            if on_demand is None or error.category not in NO_SPOT_MACHINE:
                raise
            logger.warning("AWS has no spot %s (%s): starting on demand", node_config["InstanceType"], error.category)
            return super().create_node(on_demand, tags, count)


def on_demand_config(node_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the machine on demand; None where `node_config` does not ask for a spot machine."""
    if node_config.get("InstanceMarketOptions", {}).get("MarketType") != "spot":
        return None
    config = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
    specifications = [*config.get("TagSpecifications", [])]
    specifications.append({"ResourceType": "instance", "Tags": [ON_DEMAND_TAG]})
    return {**config, "TagSpecifications": specifications}

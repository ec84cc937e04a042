"""Ray clusters: starting or joining one, what fits on it, handing it a sweep from afar, and checking cluster files."""

from raycodellm.cluster.capacity import (
    SPARE_CPUS,
    Autoscaler,
    Node,
    bundles_that_fit,
    read_autoscaler,
    slots_that_fit,
    why_not,
)
from raycodellm.cluster.connect import Cluster, connect, disconnect
from raycodellm.cluster.environment import ENVIRONMENT, prepare_environment
from raycodellm.cluster.machine import local_cpus, local_placement
from raycodellm.cluster.start import RayNotStarted
from raycodellm.cluster.submit import client, how_to_follow, submit, validate_cluster_file

__all__ = [
    "ENVIRONMENT",
    "SPARE_CPUS",
    "Autoscaler",
    "Cluster",
    "Node",
    "RayNotStarted",
    "bundles_that_fit",
    "client",
    "connect",
    "disconnect",
    "how_to_follow",
    "local_cpus",
    "local_placement",
    "prepare_environment",
    "read_autoscaler",
    "slots_that_fit",
    "submit",
    "validate_cluster_file",
    "why_not",
]

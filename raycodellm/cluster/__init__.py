"""Ray clusters: what fits on one, starting or joining one, and handing a sweep to a distant one."""

from raycodellm.cluster.autoscaler import Autoscaler, read_autoscaler
from raycodellm.cluster.capacity import (
    SPARE_CPUS,
    Node,
    local_cpus,
    placement_problem,
    slots_that_fit,
    workers_on,
)
from raycodellm.cluster.connect import Cluster, connect, disconnect, looked_at_again
from raycodellm.cluster.environment import WORKER_ENVIRONMENT, prepare_environment
from raycodellm.cluster.machine import local_placement
from raycodellm.cluster.start import RayNotStarted

__all__ = [
    "SPARE_CPUS",
    "WORKER_ENVIRONMENT",
    "Autoscaler",
    "Cluster",
    "Node",
    "RayNotStarted",
    "connect",
    "disconnect",
    "local_cpus",
    "local_placement",
    "looked_at_again",
    "placement_problem",
    "prepare_environment",
    "read_autoscaler",
    "slots_that_fit",
    "workers_on",
]

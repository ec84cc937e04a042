"""Names that libraries do not promise to keep: each is still there.

`test_layers.py` holds that docs/architecture.md lists each."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

SOURCES = [
    ("lm_eval", "api/task.py", "self.dataset = datasets.load_dataset("),
    ("ray", "_private/ray_constants.py", "SETUP_WORKER_FILENAME = "),
    ("ray", "_private/node.py", "ray_constants.SETUP_WORKER_FILENAME,"),
    ("ray", "_private/node.py", "ray._private.services.get_node("),
    ("ray", "_private/ray_constants.py", 'env_integer("RAY_DASHBOARD_STARTUP_TIMEOUT_S", 60)'),
    ("ray", "_private/ray_constants.py", 'DEBUG_AUTOSCALING_STATUS = "__autoscaling_status"'),
    ("ray", "_private/services.py", 'os.path.join(RAY_PATH, AUTOSCALER_V2_DIR, "monitor.py")'),
    ("ray", "_private/services.py", "--autoscaling-config="),
    ("ray", "_private/services.py", "--gcs-address="),
    ("ray", "experimental/internal_kv.py", "def _internal_kv_get("),
    ("ray", "core/generated/gcs_service_pb2_grpc.py", "'/ray.rpc.NodeInfoGcsService/GetClusterId'"),
    ("ray", "_private/state.py", "def available_resources_per_node("),
    ("ray", "_private/state.py", "def get_draining_nodes("),
    ("ray", "autoscaler/v2/sdk.py", "def get_cluster_status("),
    ("ray", "_private/services.py", 'f"--node_id={node_id}"'),
    ("ray", "autoscaler/_private/aws/node_provider.py", "def create_node(self, node_config, tags, count)"),
    ("ray", "autoscaler/_private/aws/node_provider.py", 'category=exc.response["Error"]["Code"]'),
    ("ray", "autoscaler/_private/gcp/node_provider.py", "def create_node(self, base_config: dict, tags: dict, count"),
    ("ray", "autoscaler/_private/gcp/node.py", 'raise Exception(result["error"])'),
    ("ray", "dashboard/modules/job/common.py", "async def put_info("),
    ("ray", "dashboard/modules/job/common.py", 'JOB_ID_METADATA_KEY = "job_submission_id"'),
    ("ray", "_private/runtime_env/constants.py", 'RAY_JOB_CONFIG_JSON_ENV_VAR = "RAY_JOB_CONFIG_JSON_ENV_VAR"'),
    ("ray", "train/v2/_internal/execution/worker_group/worker.py", "callback.after_init_train_context()"),
    ("ray", "train/v2/api/data_parallel_trainer.py", "callbacks=self._create_default_callbacks(),"),
    ("ray", "train/v2/api/data_parallel_trainer.py", "result = self._initialize_and_run_controller("),
    ("ray", "train/v2/api/data_parallel_trainer.py", ")(TrainController)"),
    ("ray", "train/v2/_internal/callbacks/placement_group_callback.py", "class PlacementGroupCleanerCallback("),
    ("ray", "train/v2/_internal/callbacks/datasets.py", "class DatasetsCallback("),
    ("ray", "train/v2/_internal/callbacks/preemption_callback.py", "(num_cpus=0, max_restarts=-1)(PreemptionWatcher)"),
    ("ray", "train/v2/_internal/execution/preemption.py", "class PreemptionWatcher:"),
    (
        "ray",
        "train/v2/_internal/execution/controller/controller.py",
        "self._worker_group_callbacks_to_propagate.append(PreemptionCallback())",
    ),
    ("ray", "train/v2/_internal/execution/worker_group/worker.py", "dataset_shard_provider: Optional["),
    (
        "ray",
        "train/v2/_internal/execution/controller/controller.py",
        " = self.worker_group_cls.create(",
    ),
    ("ray", "train/v2/_internal/execution/worker_group/worker_group.py", ")(self._worker_cls)"),
    ("ray", "train/v2/_internal/execution/scaling_policy/fixed.py", "self._maybe_send_resource_request()"),
    ("ray", "train/v2/_internal/execution/scaling_policy/scaling_policy.py", "def after_controller_start(self"),
    ("ray", "train/v2/_internal/exceptions.py", "self.health_check_failure = "),
    ("deepspeed", "comm/torch.py", "deepspeed.ops.__compatible_ops__.get(builder.NAME, False)"),
    ("deepspeed", "runtime/zero/stage_1_and_2.py", "self._global_grad_norm = "),
    ("deepspeed", "runtime/zero/stage_1_and_2.py", "if not self._hp_optimizer_states_linked:"),
    ("deepspeed", "runtime/zero/stage_1_and_2.py", "def _lazy_init_hp_params_optimizer_state(self)"),
    ("deepspeed", "runtime/fp16/unfused_optimizer.py", "self.fp32_groups = []"),
    ("deepspeed", "runtime/fp16/unfused_optimizer.py", "self.fp16_groups = []"),
    ("transformers", "masking_utils.py", "def find_packed_sequence_indices(position_ids"),
    ("transformers", "masking_utils.py", "= find_packed_sequence_indices(position_ids)"),
    ("transformers", "cache_utils.py", "self.keys = torch.cat([self.keys, key_states], dim=-2)"),
    ("lm_eval", "utils.py", "rtemplate = env.from_string(template)"),
    ("lm_eval", "api/task.py", "self._instances"),
]
"""(library, file in it, words of its source on which the package relies). Reading a source needs no slow import."""


@pytest.mark.parametrize(("library", "file", "words"), SOURCES)
def test_what_the_package_relies_on_is_still_in_the_librarys_source(library: str, file: str, words: str) -> None:
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.origin is not None
    assert words in (Path(spec.origin).parent / file).read_text(encoding="utf-8")


def test_cores_and_gpus_are_counted_within_what_the_machine_has() -> None:
    from raycodellm.cluster import machine

    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert machine.gpus() >= 0


def test_visible_devices_bound_the_number_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.accelerators import nvidia_gpu

    from raycodellm.cluster import machine

    manager = nvidia_gpu.NvidiaGPUAcceleratorManager
    monkeypatch.setattr(manager, "get_current_node_num_accelerators", staticmethod(lambda: 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert machine.gpus() == 2

"""The files and pages for clusters in the cloud: what can be checked of them without a cloud."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jsonschema
import kubernetes_manifests as kubernetes
import pytest
import yaml
from commands_in_docs import calls, check_aws, check_ray, check_raycodellm, commands

from raycodellm import cluster
from raycodellm.check import prices
from raycodellm.cluster import Node, slots_that_fit
from raycodellm.config import Scaling

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "cluster"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *FOLDER.glob("*.md")])
CLOUDS = {
    "aws": (ROOT / "cluster.yaml", FOLDER / "aws.md"),
    "gcp": (FOLDER / "gcp.yaml", FOLDER / "gcp.md"),
}
NAMES = {
    **{"AWS_REGION": "us-west-2", "ACCOUNT": "123456789012", "BUCKET": "a-bucket", "PROJECT": "a-project"},
    **{"REGION": "us-central1", "IMAGE": "registry/raycodellm:0.1.0"},
}


def run_shell(command: str) -> str:
    environment = {**NAMES, "PATH": os.environ["PATH"]}
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, text=True, capture_output=True).stdout


def filled(page: Path, file: str) -> str:
    """The file after the page's own command has put the names in."""
    (command,) = [line for line in commands(page) if line.startswith("sed ") and file in line]
    return run_shell(re.split(r" > ~| \| kubectl", command)[0])


@pytest.fixture(scope="module", params=CLOUDS)
def cloud_file(request) -> dict[str, Any]:
    file, page = CLOUDS[request.param]
    return yaml.safe_load(filled(page, file.name))


# ------------------------------------------------------------------------------------------------- AWS and GCP


def test_ray_accepts_a_cluster_file_as_the_page_fills_it_in(cloud_file):
    from ray.autoscaler._private.util import prepare_config, validate_config  # the rules of `ray up`

    validate_config(prepare_config(copy.deepcopy(cloud_file)))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_refuses_a_file_that_is_not_filled_in_and_says_where_to_look(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    file, page = CLOUDS[cloud]
    tree = yaml.safe_load(file.read_text())
    with pytest.raises(jsonschema.ValidationError, match=page.name):
        validate_config(prepare_config(tree))


def test_idle_gpus_cost_nothing_and_the_bill_has_a_limit(cloud_file):
    kinds = dict(cloud_file["available_node_types"])
    head = kinds.pop(cloud_file["head_node_type"])
    assert not head["resources"].get("GPU") and head["max_workers"] == 0
    assert cloud_file["idle_timeout_minutes"] <= 15 and not cloud_file["provider"]["cache_stopped_nodes"]
    for kind in kinds.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= cloud_file["max_workers"]
        assert kind["resources"]["GPU"] >= 1


def test_a_gpu_trial_fits_and_its_device_has_a_price(cloud_file):
    autoscaler = cluster.read_autoscaler(cloud_file)
    nodes = autoscaler.addable_nodes([Node(8)])
    assert slots_that_fit([Node(8), *nodes], Scaling(gpus_per_worker=1)) == cloud_file["max_workers"]
    assert {node.device for node in nodes} == {"L4"} and prices.load().device("L4")


def test_the_token_reaches_every_node_and_the_dashboard_stays_inside(cloud_file):
    assert cloud_file["file_mounts"] == {"~/.ray": "~/.ray"}
    assert "--env RAY_AUTH_MODE=token" in cloud_file["docker"]["run_options"]
    start = " ".join(cloud_file["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start and "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_nothing_is_installed_when_a_machine_starts(cloud_file):
    steps = [*cloud_file["initialization_commands"], *cloud_file["setup_commands"]]
    steps += [*cloud_file["head_setup_commands"], *cloud_file["worker_setup_commands"]]
    assert not any(re.search(r"\b(pip|conda|apt-get) ", step) for step in steps)
    assert cloud_file["docker"]["image"] == NAMES["IMAGE"]


def test_the_image_has_the_pinned_ray_and_the_pinned_versions():
    text = (FOLDER / "Dockerfile").read_text()
    pinned = re.search(r"ray\[[^]]*\]>=(\d+\.\d+)", (ROOT / "pyproject.toml").read_text())[1]
    assert re.search(rf"FROM rayproject/ray:{re.escape(pinned)}\.\d+-py311", text)
    assert "pip install --no-cache-dir -c constraints.txt ." in text
    for path in re.findall(r"^COPY \S+ (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in path.split())


def test_aws_knows_every_setting_of_the_machines():
    import botocore.session
    from botocore.validate import ParamValidator

    tree = yaml.safe_load(filled(CLOUDS["aws"][1], "cluster.yaml"))
    model = botocore.session.get_session().get_service_model("ec2")
    for kind in tree["available_node_types"].values():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, model.operation_model("RunInstances").input_shape)
        assert not report.has_errors(), report.generate_report()


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, Any]]:
    """The filled-in file for AWS, as Ray resolves it in a pretended account with the roles. Takes two seconds."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.util import prepare_config

    from raycodellm.cluster.aws_provider import SpotOrOnDemand

    with mock_aws():
        iam = boto3.client("iam")
        for name in ("raycodellm-head", "raycodellm-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        tree = yaml.safe_load(filled(CLOUDS["aws"][1], "cluster.yaml"))
        yield SpotOrOnDemand.bootstrap_config(prepare_config(tree))


def start(aws: dict[str, Any], provider: Any, kind: str) -> Any:
    """A new machine of this kind."""
    tags = {"ray-node-type": "head" if kind == "head" else "worker"}
    (machine,) = provider.create_node(aws["available_node_types"][kind]["node_config"], tags, 1).values()
    return machine


def provider_of(aws: dict[str, Any]) -> Any:
    from raycodellm.cluster.aws_provider import SpotOrOnDemand

    return SpotOrOnDemand(aws["provider"], aws["cluster_name"])


@pytest.mark.slow
def test_ray_resolves_the_file_and_keeps_its_image_and_roles(aws):
    for kind, role in (("head", "raycodellm-head"), ("gpu", "raycodellm-worker")):
        config = aws["available_node_types"][kind]["node_config"]
        assert config["ImageId"].startswith(
            "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu"
        )
        assert config["IamInstanceProfile"] == {"Name": role}
        assert len(config["SubnetIds"]) == 4 and config["SecurityGroupIds"] and config["KeyName"]
    assert "IamInstanceProfile" not in aws["head_node"]  # Ray's own role, which may do everything


def pretended_market(monkeypatch, provider: Any, error: str | None) -> list[str]:
    """Has AWS answer with this error to each wish for a spot machine; returns the wishes."""
    from botocore.exceptions import ClientError

    tries: list[str] = []
    create = provider.ec2_fail_fast.create_instances

    def create_instances(**asked: Any) -> Any:
        is_spot = "InstanceMarketOptions" in asked
        tries.append(f"{'spot' if is_spot else 'on demand'} {asked['SubnetId']}")
        if is_spot and error:
            raise ClientError({"Error": {"Code": error, "Message": "none"}}, "RunInstances")
        return create(**asked)

    client = SimpleNamespace(create_instances=create_instances)
    monkeypatch.setattr(provider, "ec2_fail_fast", client)
    return tries


@pytest.mark.slow
def test_where_aws_has_a_spot_machine_it_is_taken(aws, monkeypatch):
    provider = provider_of(aws)
    tries = pretended_market(monkeypatch, provider, error=None)
    assert start(aws, provider, "gpu").instance_lifecycle == "spot" and len(tries) == 1


@pytest.mark.slow
def test_where_aws_has_no_spot_machine_in_any_zone_one_is_started_on_demand(aws, monkeypatch):
    provider = provider_of(aws)
    tries = pretended_market(monkeypatch, provider, "InsufficientInstanceCapacity")
    machine, config = start(aws, provider, "gpu"), aws["available_node_types"]["gpu"]["node_config"]
    assert machine.instance_lifecycle is None and machine.image_id == config["ImageId"]
    tags = {tag["Key"]: tag["Value"] for tag in machine.tags}
    assert tags["raycodellm-market"] == "on-demand" and tags["ray-cluster-name"] == "raycodellm"
    assert {f"spot {subnet}" for subnet in config["SubnetIds"]} == set(tries[:-1])
    assert tries[-1].startswith("on demand")


@pytest.mark.slow
def test_a_refusal_for_another_reason_is_said_and_not_paid_for(aws, monkeypatch):
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    provider = provider_of(aws)
    tries = pretended_market(monkeypatch, provider, "UnauthorizedOperation")
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        start(aws, provider, "gpu")
    assert not any(wish.startswith("on demand") for wish in tries)


class Shell:
    """The commands that Ray's launcher would run by ssh and rsync, with the answers of a machine that works."""

    answers: ClassVar = {
        "command -v docker": b"/usr/bin/docker",
        ".Runtimes": b"map[nvidia:{nvidia-container-runtime}]",
        ".Config.Env": b'["HOME=/home/ray"]',
        "printenv HOME": b"/home/ray",
        ".State.Running": b"false",
    }

    def __init__(self) -> None:
        self.lines: list[str] = []

    def check_output(self, command: list[str], *words: Any, **options: Any) -> bytes:
        self.lines.append(" ".join(command[-2:]))
        return next((answer for part, answer in self.answers.items() if part in self.lines[-1]), b"")

    check_call = check_output

    def place(self, words: str) -> int:
        """Number of the only line with these words."""
        (found,) = [number for number, line in enumerate(self.lines) if words in line]
        return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_token_image_and_driver_reach_a_machine_before_ray_starts_on_it(aws, monkeypatch, tmp_path, kind):
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.updater import NodeUpdater

    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
    monkeypatch.setenv("HOME", str(tmp_path))  # the clusters of other tests read their token in the session's home
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a-token")
    provider, shell, is_head = provider_of(aws), Shell(), kind == "head"
    machine = start(aws, provider, kind)
    provider.non_terminated_nodes({})
    starts = aws["head_start_ray_commands" if is_head else "worker_start_ray_commands"]
    NodeUpdater(
        node_id=machine.id,
        provider_config=aws["provider"],
        provider=provider,
        process_runner=shell,
        cluster_name=aws["cluster_name"],
        auth_config=aws["auth"],
        docker_config=aws["docker"],
        is_head_node=is_head,
        use_internal_ip=True,
        runtime_hash="",
        file_mounts_contents_hash="",
        rsync_options={"rsync_exclude": [], "rsync_filter": []},
        node_resources=aws["available_node_types"][kind]["resources"],
        ray_start_commands=starts,
        **{key: aws[key] for key in ("file_mounts", "initialization_commands", "setup_commands")},
    ).do_update()
    steps = [f"{token.parent}/ ubuntu@", "docker login", f"docker pull {NAMES['IMAGE']}", "docker run", "ray start"]
    places = [shell.place(step) for step in steps]
    assert places == sorted(places)
    container = shell.lines[shell.place("docker run")]
    assert "~/.ray:/home/ray/.ray " in container and "--env RAY_AUTH_MODE=token" in container
    assert ("--gpus all" in container) == (not is_head)
    assert not is_head or "--dashboard-host=127.0.0.1" in shell.lines[shell.place("ray start")]
    assert is_head or shell.place("raycodellm.cluster.spot_notice aws") > places[-1]


def test_google_knows_every_setting_of_the_machines():
    from googleapiclient.discovery_cache import get_static_doc

    schemas = json.loads(get_static_doc("compute", "v1"))["schemas"]
    tree = yaml.safe_load(filled(CLOUDS["gcp"][1], "gcp.yaml"))
    for kind in tree["available_node_types"].values():
        assert list(google_faults(kind["node_config"], {"$ref": "Instance"}, schemas, "node_config")) == []


def google_faults(value: Any, schema: dict[str, Any], schemas: dict[str, Any], place: str):
    """Unknown fields, wrong types and unknown choices, by Google's description of its interface."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "object":
        for key, item in value.items():
            if key not in schema["properties"]:
                yield f"{place}.{key}: no such field"
            else:
                yield from google_faults(item, schema["properties"][key], schemas, f"{place}.{key}")
    elif schema["type"] == "array":
        for number, item in enumerate(value):
            yield from google_faults(item, schema["items"], schemas, f"{place}.{number}")
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value} is none of {schema['enum']}"
    elif schema["type"] == "boolean" and not isinstance(value, bool):
        yield f"{place}: {value} is no boolean"


@pytest.mark.parametrize("word", ["ZONE_RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED", "permission denied"])
def test_where_google_has_no_spot_machine_one_is_started_on_demand(monkeypatch, word):
    from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

    from raycodellm.cluster.gcp_provider import SpotOrOnDemand

    started: list[str] = []

    def create_node(self, config, tags, count):
        model = config["scheduling"]["provisioningModel"]
        if model == "SPOT" and len(started) == 1:
            raise Exception({"errors": [{"code": word}]})  # as Ray raises Google's answer
        started.append(f"{count} {model} {config.get('labels', {}).get('raycodellm-market', '')}".strip())
        return {f"machine-{len(started)}": {}}

    monkeypatch.setattr(GCPNodeProvider, "create_node", create_node)
    config = yaml.safe_load((FOLDER / "gcp.yaml").read_text())["available_node_types"]["gpu"]["node_config"]
    provider = SpotOrOnDemand.__new__(SpotOrOnDemand)
    if word == "permission denied":
        with pytest.raises(Exception, match=word):
            provider.create_node(config, {}, 3)
        assert started == ["1 SPOT"]
    else:
        assert len(provider.create_node(config, {}, 3)) == 3
        assert started == ["1 SPOT", "1 STANDARD on-demand", "1 SPOT"]


# ------------------------------------------------------------------------------------------------- KubeRay


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    """Both manifests as the page fills them in."""
    page = FOLDER / "kuberay.md"
    return {kind: yaml.safe_load(filled(page, f"{kind}.yaml")) for kind in ("raycluster", "rayjob")}


def test_kuberays_manifests_have_its_fields_and_kubernetes_pods(kuberay):
    jsonschema.validate(kuberay["raycluster"], kubernetes.manifest("RayCluster", kubernetes.CLUSTER))
    jsonschema.validate(kuberay["rayjob"], kubernetes.manifest("RayJob", kubernetes.JOB))
    for spec in (kuberay["raycluster"]["spec"], kuberay["rayjob"]["spec"]["rayClusterSpec"]):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert list(kubernetes.pod_faults(group["template"])) == []
            assert group["template"]["spec"]["containers"][0]["image"] == NAMES["IMAGE"]


def test_a_wrong_pod_is_noticed():
    assert list(kubernetes.pod_faults({"spec": {"containers": [{"name": "a", "resorces": {}}]}}))
    assert list(kubernetes.pod_faults({"spec": {"containers": [{"image": "a"}]}}))
    assert list(kubernetes.pod_faults({"spec": {"containers": [{"name": 3}]}}))


def test_a_job_runs_on_the_same_cluster_with_the_sweep_mounted(kuberay):
    spec, of_job = kuberay["raycluster"]["spec"], copy.deepcopy(kuberay["rayjob"]["spec"]["rayClusterSpec"])
    head = of_job["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["volumeMounts"].pop() == {"mountPath": "/home/ray/sweep", "name": "sweep"}
    assert head["volumes"].pop()["configMap"] == {"name": "raycodellm-sweep"}
    assert of_job == spec
    check_raycodellm(kuberay["rayjob"]["spec"]["entrypoint"].split())
    assert "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(kuberay["rayjob"]["spec"]["runtimeEnvYAML"])["env_vars"]
    assert kuberay["rayjob"]["spec"]["shutdownAfterJobFinishes"]


def test_a_kuberay_cluster_scales_to_nothing_asks_for_a_token_and_fits_a_gpu_each(kuberay):
    spec = kuberay["raycluster"]["spec"]
    assert spec["enableInTreeAutoscaling"] and spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    (secret,) = [line for line in commands(FOLDER / "kuberay.md") if "create secret" in line]
    assert f"generic {spec['authOptions']['secretName']} " in secret and "auth_token=" in secret
    spot, on_demand = spec["workerGroupSpecs"]
    assert spot["priority"] > on_demand["priority"]
    for group in (spot, on_demand):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1" and group["minReplicas"] == group["replicas"] == 0
    assert any("spot" in item["key"] for item in spot["template"]["spec"]["tolerations"])


def test_rays_autoscaler_reads_gpus_priorities_and_limits_from_the_manifest(kuberay):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {**kuberay["raycluster"], "metadata": {"name": "raycodellm", "namespace": "default"}}
    read = _derive_autoscaling_config_from_ray_cr(resource)
    kinds = read["available_node_types"]
    assert [(kinds[name]["resources"]["GPU"], kinds[name]["priority"]) for name in ("l4-spot", "l4-on-demand")] == [
        (1, 10),
        (1, 0),
    ]
    assert kinds["headgroup"]["resources"]["GPU"] == 0 and read["idle_timeout_minutes"] == 5
    nodes = cluster.read_autoscaler(read).addable_nodes([Node(6)])
    assert slots_that_fit([Node(6), *nodes], Scaling(gpus_per_worker=1)) == 16


def test_rays_autoscaler_prefers_spot_and_turns_away_only_from_a_node_that_was_granted_and_never_came():
    """The second line is why AWS and Google Cloud have providers of our own: see docs/cluster/README.md."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    assert asked_for(monitor) == {"spot": 3}
    for status, kinds in (("ALLOCATION_FAILED", {"spot": 3}), ("ALLOCATION_TIMEOUT", {"on_demand": 3})):
        event = InstanceUpdateEvent(instance_type="spot", new_instance_status=getattr(Instance, status))
        monitor.notify([event])
        assert asked_for(monitor) == kinds, status


def asked_for(monitor: Any) -> dict[str, int]:
    """The nodes that Ray's autoscaler starts for three workers with a GPU, by kind."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    same = {"min_worker_nodes": 0, "max_worker_nodes": 8, "labels": {}, "launch_config_hash": ""}
    kinds = {
        name: NodeTypeConfig(name=name, priority=priority, resources=resources, **same)
        for name, priority, resources in (
            ("spot", 10, {"CPU": 8, "GPU": 1}),
            ("on_demand", 0, {"CPU": 8, "GPU": 1}),
            ("head", 0, {"CPU": 8}),
        )
    }
    workers = [ResourceRequestUtil.make({"GPU": 1, "CPU": 6})] * 3
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=kinds,
        max_num_nodes=9,
        resource_requests=ResourceRequestUtil.group_by_count(workers),
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


# ------------------------------------------------------------------------------------------------- the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_on_a_page_have_the_options_that_it_gives_them(page):
    for words in calls(page, "raycodellm"):
        check_raycodellm(words)
    for words in calls(page, "ray"):
        check_ray(words)
    for words in calls(page, "aws"):
        check_aws(words)


def test_the_pages_do_have_commands():
    counts = {name: len(list(calls(FOLDER / "aws.md", name))) for name in ("aws", "ray", "raycodellm")}
    assert counts["aws"] >= 20 and counts["ray"] >= 5 and counts["raycodellm"] >= 4


def test_a_wrong_command_on_a_page_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ A=$(aws iam create-rol --role-name x)\n> ray up --ys file && raycodellm run\n```\n")
    (aws,), (ray,), (ours,) = (list(calls(page, name)) for name in ("aws", "ray", "raycodellm"))
    with pytest.raises(AssertionError, match="create-rol"):
        check_aws(aws)
    with pytest.raises(AssertionError, match="needs"):
        check_aws(["aws", "iam", "create-role", "--role-name", "x"])
    with pytest.raises(Exception, match="--ys"):
        check_ray(ray)
    with pytest.raises(SystemExit):
        check_raycodellm(ours)


@pytest.mark.slow
def test_the_roles_allow_operations_that_aws_has_on_what_the_page_names():
    import botocore.session

    text = (FOLDER / "aws.md").read_text()
    policies = {
        name: json.loads(run_shell(f"cat <<END\n{body}END"))
        for name, body in re.findall(r"cat > /tmp/(\w+)\.json <<END\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    }
    assert set(policies) == {"trust", "worker", "head"}
    without_operation = {"s3:ListBucket": "ListObjectsV2", "iam:PassRole": None}  # rights with names of their own
    for policy in policies.values():
        for statement in policy["Statement"]:
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                service, operation = action.split(":")
                model = botocore.session.get_session().get_service_model(service)
                operation = without_operation.get(action, operation)
                assert operation is None or operation in model.operation_names, action
            assert "$" not in str(statement)
            if statement.get("Resource") == "*":
                assert actions in ("ec2:DescribeInstances", "ecr:GetAuthorizationToken")
    pass_role = next(s for s in policies["head"]["Statement"] if s["Action"] == "iam:PassRole")
    assert pass_role["Resource"].endswith(":role/raycodellm-worker")


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_links_on_the_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path = link.partition("#")[0]
        assert "://" in link or not path or (page.parent / path).exists(), link


def test_the_constraints_meet_the_packages_requirements():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {canonicalize_name(r.name): r for r in map(Requirement, (ROOT / "constraints.txt").read_text().split())}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        asked = Requirement(text)
        pin = pins.get(canonicalize_name(asked.name))
        assert pin is not None, f"constraints.txt has no {asked.name}"
        (version,) = pin.specifier
        assert version.operator == "==" and asked.specifier.contains(version.version), f"{pin} does not meet {text}"

"""What cluster/ ships, checked without a cloud: by Ray's own launcher and autoscaler, KubeRay's schema, and linters."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from mars_dist.distributed.scaling import ON_DEMAND

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
LAUNCHED, MANIFESTS, SCRIPTS = ("aws", "gcp"), ("kuberay-cluster", "kuberay-job"), ("local.sh", "slurm.sh")
BIN = Path(sys.executable).parent


def load(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return values


def locked(package: str) -> str:
    """The version in requirements.lock."""
    [version] = re.findall(rf"^{package}==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return str(version)


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_every_file_has_its_check() -> None:
    checked = {f"{name}.yaml" for name in (*LAUNCHED, *MANIFESTS, "aws-storage")} | set(SCRIPTS)
    checked |= {"Dockerfile", "Dockerfile.dockerignore", "README.md"}
    assert {path.name for path in FOLDER.iterdir()} == checked


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_key_or_an_open_door(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|secret_access_key|RAY_AUTH_MODE=disabled", text, re.IGNORECASE)
    assert not re.search(r"LoadBalancer|NodePort|enableIngress: true", text)
    if path.stem in LAUNCHED:
        assert "0.0.0.0" not in text  # in a pod it is the pod's own


# ---- Ray's launcher


def prepared(name: str, **changed: Any) -> dict[str, Any]:
    """As `ray up` reads it. Raises where Ray would refuse it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(load(name) | changed)
    validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_a_launcher_file_and_none_with_a_slip(name: str) -> None:
    config = prepared(name)
    types = config["available_node_types"]
    assert list(types) == ["head", "cpu", "gpu_spot", "gpu_on_demand"]
    assert config["head_node_type"] == "head" and types["head"]["resources"] == {"CPU": 0}
    assert all(one["min_workers"] == 0 for one in types.values())
    assert config["provider"]["cache_stopped_nodes"] is False
    for slip in ({"max_worker": 1}, {"max_workers": -1}, {"head_node_type": "heads"}):
        with pytest.raises(Exception, match=r"max_worker|head_node_type"):
            prepared(name, **slip)


@pytest.mark.parametrize("name", LAUNCHED)
def test_nodes_get_the_token_and_what_the_lock_pins(name: str) -> None:
    config = load(name)
    assert config["file_mounts"] == {
        "~/.ray/auth_token": "~/.ray/auth_token",
        "~/requirements.lock": "requirements.lock",
    }
    commands = "\n".join(config["setup_commands"])
    assert "RAY_AUTH_MODE=token" in commands and "--no-deps --requirement ~/requirements.lock" in commands
    assert all("--dashboard-host=127.0.0.1" in line for line in config["head_start_ray_commands"] if "--head" in line)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty AWS account; a home folder for the key that Ray makes."""
    from moto import mock_aws

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        yield


def test_aws_is_set_up_from_nothing(account: None) -> None:
    """The stack, then all that `ray up` does before it starts a node."""
    import boto3
    from ray.autoscaler._private.commands import _bootstrap_config

    region = load("aws")["provider"]["region"]
    formation = boto3.client("cloudformation", region)
    template = (FOLDER / "aws-storage.yaml").read_text()
    formation.create_stack(StackName="mars", TemplateBody=template, Capabilities=["CAPABILITY_NAMED_IAM"])
    [stack] = formation.describe_stacks()["Stacks"]
    [output] = stack["Outputs"]
    bucket = output["OutputValue"].removeprefix("s3://")
    assert [one["Name"] for one in boto3.client("s3", region).list_buckets()["Buckets"]] == [bucket]
    profile = boto3.client("iam", region).get_instance_profile(InstanceProfileName="mars-node")["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == ["mars-node"]

    config = _bootstrap_config(load("aws"), no_config_cache=True)
    types = config["available_node_types"]
    for one in types.values():
        assert one["node_config"]["IamInstanceProfile"] == {"Name": profile["InstanceProfileName"]}
        assert one["node_config"]["SubnetIds"] and one["node_config"]["SecurityGroupIds"]
    assert "GPU" not in types["head"]["resources"] and types["cpu"]["resources"]["CPU"] == 16
    assert types["gpu_spot"]["resources"] == types["gpu_on_demand"]["resources"]
    assert (types["gpu_spot"]["resources"]["CPU"], types["gpu_spot"]["resources"]["GPU"]) == (48, 4)
    spot = [name for name, one in types.items() if "InstanceMarketOptions" in one["node_config"]]
    assert spot == ["cpu", "gpu_spot"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_spot_comes_first_and_on_demand_where_a_training_asks_for_it(name: str) -> None:
    """Ray's own scheduler is asked what it would start for eight workers."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    types = {
        kind: NodeTypeConfig(
            name=kind,
            min_worker_nodes=0,
            max_worker_nodes=one["max_workers"],
            priority=one.get("priority", 0),
            labels=one.get("labels", {}),
            resources=one["resources"] or {"CPU": 16} | ({"CPU": 48, "GPU": 4} if "gpu" in kind else {}),
        )
        for kind, one in prepared(name)["available_node_types"].items()
    }

    def started(on_demand: int) -> dict[str, int]:
        [(label, value)] = ON_DEMAND.items()
        selector = [[(label, LabelSelectorOperator.LABEL_OPERATOR_IN, [value])]]
        anywhere = ResourceRequestUtil.make({"GPU": 1})
        labelled = ResourceRequestUtil.make({"GPU": 1}, label_selectors=selector)
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types,
            max_num_nodes=16,
            gang_resource_requests=[
                GangResourceRequest(requests=[anywhere] * (8 - on_demand) + [labelled] * on_demand)
            ],
        )
        reply = ResourceDemandScheduler(lambda *_: None).schedule(request)
        assert not reply.infeasible_gang_resource_requests
        return {one.instance_type: one.count for one in reply.to_launch}

    assert started(0) == {"gpu_spot": 2}
    assert started(8) == {"gpu_on_demand": 2}
    assert started(4) == {"gpu_spot": 1, "gpu_on_demand": 1}
    groups = load("kuberay-cluster")["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups if group.get("labels") == ON_DEMAND] == ["gpu-on-demand"]


def test_a_training_is_told_how_many_gpus_there_can_be() -> None:
    for name in LAUNCHED:
        types = load(name)["available_node_types"]
        most = 4 * sum(types[kind]["max_workers"] for kind in ("gpu_spot", "gpu_on_demand"))
        assert any(f"export MARS_GPUS={most}" in line for line in load(name)["setup_commands"])
    spec = load("kuberay-cluster")["spec"]
    most = 4 * sum(group["maxReplicas"] for group in spec["workerGroupSpecs"] if group["groupName"].startswith("gpu"))
    [head] = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["env"] == [{"name": "MARS_GPUS", "value": str(most)}]


# ---- KubeRay


def complaints(manifest: dict[str, Any]) -> list[str]:
    """Against kuberay_schema.json: KubeRay's CRDs (Apache License 2.0), cut down to the fields around those that these
    manifests have, with no field allowed that is not named there."""
    schemas = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    return [error.message for error in Draft202012Validator(schemas[manifest["kind"]]).iter_errors(manifest["spec"])]


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec if manifest["kind"] == "RayCluster" else spec["rayClusterSpec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_knows_every_field(name: str) -> None:
    assert complaints(load(name)) == []
    slips = 0
    for place, _ in enumerate(walk(load(name)["spec"])):
        manifest = copy.deepcopy(load(name))
        fields = list(walk(manifest["spec"]))[place]
        named = set(fields) - {"rayStartParams"}
        free = named & {
            "key",
            "requests",
            "num-cpus",
            "cpu",
            "memory",
            "nvidia.com/gpu",
            "cloud.google.com/gke-spot",
            *ON_DEMAND,
        }
        if not named or free - {"key", "requests"}:
            continue  # a map whose keys are free
        fields["slip"] = 1
        assert complaints(manifest), fields
        slips += 1
    assert slips > 30


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_cluster_on_kubernetes_is_closed_and_shared(name: str) -> None:
    manifest = load(name)
    spec = cluster_of(manifest)
    assert spec["authOptions"] == {"mode": "token"} and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["rayVersion"] == locked("ray")
    assert spec["enableInTreeAutoscaling"] and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = spec["workerGroupSpecs"]
    assert {group["groupName"].split("-")[0] for group in groups} == {"cpu", "gpu"}
    for group in (spec["headGroupSpec"], *groups):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == "REGISTRY/mars-dist:0.1"
        assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
            "shm": "/dev/shm",
            "shared": "/shared",
        }
        assert {volume["name"] for volume in pod["volumes"]} == {"shm", "shared"}
        asked, limit = container["resources"]["requests"], container["resources"]["limits"]
        assert limit == {name: amount for name, amount in asked.items() if name != "cpu"}
        assert ("nvidia.com/gpu" in asked) == group.get("groupName", "").startswith("gpu")
    if manifest["kind"] == "RayCluster":
        assert all(group["replicas"] == group["minReplicas"] == 0 for group in groups)


@pytest.mark.parametrize("name", ["README.md", *(f"{name}.yaml" for name in MANIFESTS)])
def test_kubernetes_own_scheduler_is_enough(name: str) -> None:
    assert not re.search(r"yunikorn|batchScheduler|gang-scheduling|schedulerName", (FOLDER / name).read_text())


def test_a_rayjob_runs_what_is_in_the_image_on_the_gpus_that_it_has() -> None:
    manifest = load("kuberay-job")
    program, script, *words = manifest["spec"]["entrypoint"].split()
    workdir = re.findall(r"^WORKDIR (\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert program == "python" and (ROOT / Path(script).relative_to(*workdir)).exists()
    [gpus] = [group for group in cluster_of(manifest)["workerGroupSpecs"] if group["groupName"] == "gpu"]
    [container] = gpus["template"]["spec"]["containers"]
    assert gpus["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == int(words[-1])
    assert words[-2] == "--workers" and manifest["spec"]["shutdownAfterJobFinishes"]


# ---- the image and the scripts


def test_the_dockerfile_is_clean() -> None:
    ended = subprocess.run([BIN / "hadolint", FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_dockerfile_copies_what_the_context_has() -> None:
    kept = {
        line[1:].rstrip("/") for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert {"mars_dist", "jobs", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"} <= kept
    for sources in re.findall(r"^COPY (?!--)(.+) \./$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE):
        assert set(sources.split()) <= kept


@pytest.mark.parametrize("name", ["Dockerfile", "aws.yaml", "gcp.yaml"])
def test_one_version_of_uv(name: str) -> None:
    [version] = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"(?:UV_VERSION=|astral.sh/uv/)([\d.]+)", (FOLDER / name).read_text()) == [version]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_clean_and_may_be_run(name: str) -> None:
    ended = subprocess.run([BIN / "shellcheck", FOLDER / name], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert (FOLDER / name).stat().st_mode & 0o111

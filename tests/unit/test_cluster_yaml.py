"""cluster.yaml and cluster-local.yaml, judged apart from `lvm doctor`: Ray, EC2's model, bash.

`ray up` merges unknown provider keys in silence, sends node settings to EC2 unread and pays for a
head before the first bad command fails. Each rule below is also shown to catch its own defect.
"""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
LOCAL = ROOT / "cluster-local.yaml"
CHECKOUT = "/home/ubuntu/lvm-triage"  # not lvm: that would hide the package in the home folder

Config = dict[str, Any]

# What Ray 2.60 reads from the provider section for AWS.
PROVIDER_KEYS = {
    "type",
    "region",
    "availability_zone",
    "cache_stopped_nodes",
    "use_internal_ips",
    "use_external_head_ip",
    "security_group",
    "key_pair",
    "aws_credentials",
    "max_terminate_nodes",
    "cloudwatch",
    "disable_node_updaters",
}
COMMAND_KEYS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@pytest.fixture
def config() -> Config:
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture(scope="module")
def ec2_run_instances() -> Any:
    """The shape of EC2's RunInstances request, from botocore's own data files."""
    session = botocore.session.get_session()
    return session.get_service_model("ec2").operation_model("RunInstances").input_shape


def commands(config: Config) -> Iterator[str]:
    for key in COMMAND_KEYS:
        yield from config.get(key, ())


def zones_that_offer(instance_type: str, region: str) -> set[str]:
    """Zones of `region` that offered `instance_type` when moto's data were recorded."""
    moto = importlib.util.find_spec("moto")  # whose files are read; importing it takes a second
    folder = Path(moto.origin).parent / "ec2/resources/instance_type_offerings"
    with gzip.open(folder / "availability-zone" / f"{region}.json.gz") as file:
        offers = json.load(file)
    return {offer["Location"] for offer in offers if offer["InstanceType"] == instance_type}


def provider_problems(config: Config) -> Iterator[str]:
    for key in set(config["provider"]) - PROVIDER_KEYS:
        yield f"provider key {key} is unknown to Ray"
    # Ray merges its open SSH rule into every group that it makes or finds without rules.
    if "security_group" in config["provider"]:
        yield "Ray would manage the security group and open SSH to 0.0.0.0/0"
    for name, node_type in config["available_node_types"].items():
        if not node_type["node_config"].get("SecurityGroupIds"):
            yield f"{name} names no security group: Ray would make one open to 0.0.0.0/0"
    if re.search(r"0\.0\.0\.0/0|::/0", CLUSTER.read_text()):
        yield "a rule for the whole internet is written in the file"


def node_problems(config: Config, ec2_run_instances: Any) -> Iterator[str]:
    provider = config["provider"]
    for name, node_type in config["available_node_types"].items():
        # Ray resolves SubnetIds itself and adds the two counts.
        request = {k: v for k, v in node_type["node_config"].items() if k != "SubnetIds"}
        report = ParamValidator().validate(
            {**request, "MinCount": 1, "MaxCount": 1}, ec2_run_instances
        )
        if report.has_errors():
            yield f"{name}: {report.generate_report()}"
        offered = zones_that_offer(request["InstanceType"], provider["region"])
        for zone in provider["availability_zone"].split(","):
            if zone.strip() not in offered:
                yield f"{name}: {request['InstanceType']} is not offered in {zone}"


def command_problems(config: Config) -> Iterator[str]:
    for command in commands(config):
        parsed = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        if parsed.returncode:
            yield f"bash cannot parse {command!r}: {parsed.stderr}"
        if re.search(r"get-auth-token|RAY_AUTH_TOKEN|set -[a-z]*[xv]", command):
            yield f"the token could reach a log: {command!r}"
        if "auth_token" in command and "chmod 600" not in command:
            yield f"the token file is touched: {command!r}"


def start_problems(config: Config) -> Iterator[str]:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in config[key] if "ray start" in command)
        if "RAY_AUTH_MODE=token " not in start:
            yield f"{key} starts Ray without a token"
    head = next(command for command in config["head_start_ray_commands"] if "--head" in command)
    if "--dashboard-host=127.0.0.1" not in head:
        yield "the dashboard does not listen on loopback alone"
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "the head would never start a worker"
    # Ray's default installs it for the system's Python; giving the list replaces that default.
    if not any(re.search(r"install .*\bboto3\b", c) for c in config["head_setup_commands"]):
        yield "the autoscaler on the head would have no boto3"


def pin_problems(config: Config) -> Iterator[str]:
    pins = re.findall(r"\bray\[[\w,]+\]==([\w.]+)", " ".join(commands(config)))
    if pins != [ray.__version__]:
        yield f"Ray is pinned as {pins}, tested as {ray.__version__}"
    constraints = (ROOT / "constraints.txt").read_text()
    if not re.search(rf"^ray(\[.*\])?=={re.escape(pins[0])}$", constraints, re.MULTILINE):
        yield "constraints.txt pins another Ray"
    # A local suffix such as +cpu has no CUDA build and is not to be had on the nodes.
    if not re.search(r"^torch==[\d.]+$", constraints, re.MULTILINE):
        yield "constraints.txt does not pin torch in the form whose Linux wheel is the CUDA build"


def test_ray_accepts_the_file(config: Config) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    # Ray's defaults install a nightly build: none of their commands may survive the merge.
    assert "ray-wheels" not in json.dumps(prepared)
    assert prepared["head_setup_commands"] == (
        config["setup_commands"] + config["head_setup_commands"]
    )


def test_ray_accepts_the_file_for_machines_of_ones_own() -> None:
    config = yaml.safe_load(LOCAL.read_text())
    config["provider"]["worker_ips"] = ["10.0.0.11", "10.0.0.12"]
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (2, 2)  # all of them, at once
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]


def test_the_file_for_machines_of_ones_own_installs_what_the_other_does(config: Config) -> None:
    local = yaml.safe_load(LOCAL.read_text())
    assert list(command_problems(local)) == []
    assert list(pin_problems(local)) == []
    mounts = [remote.replace("/home/ubuntu", "~") for remote in config["file_mounts"]]
    assert list(local["file_mounts"]) == mounts
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in local[key] if "ray start" in command)
        assert "RAY_AUTH_MODE=token " in start
    assert "--num-cpus=0 --num-gpus=0" in " ".join(local["head_start_ray_commands"])


def test_provider_is_spelt_as_ray_reads_it_and_nothing_is_open(config: Config) -> None:
    assert list(provider_problems(config)) == []


def test_node_settings_are_what_ec2_takes(config: Config, ec2_run_instances: Any) -> None:
    assert list(node_problems(config, ec2_run_instances)) == []


def test_commands_parse_and_keep_the_token_secret(config: Config) -> None:
    assert list(command_problems(config)) == []


def test_ray_starts_closed(config: Config) -> None:
    assert list(start_problems(config)) == []


def test_versions_are_those_of_the_project(config: Config) -> None:
    assert list(pin_problems(config)) == []


def test_arms_run_on_spot_workers_from_zero(config: Config) -> None:
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] >= 1
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_every_mounted_file_is_in_the_project(config: Config) -> None:
    mounts = config["file_mounts"]
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"{CHECKOUT}/{local}"
    # What pyproject.toml names must be there, or the editable installation fails on the node.
    assert {"pyproject.toml", "README.md", "LICENSE", "lvm", "tune_jobs"} <= set(mounts.values())


def test_each_blank_occurs_once() -> None:
    text = "\n".join(x for x in CLUSTER.read_text().splitlines() if not x.lstrip().startswith("#"))
    assert sorted(re.findall(r"FILL_IN_\w+", text)) == [
        "FILL_IN_AMI_ID",
        "FILL_IN_EFS_ID",
        "FILL_IN_SECURITY_GROUP_ID",
    ]


def misspell_region(config: Config) -> None:
    config["provider"]["availability_zones"] = config["provider"].pop("availability_zone")


def let_ray_make_the_group(config: Config) -> None:
    del config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]


@pytest.mark.parametrize("defect", [misspell_region, let_ray_make_the_group])
def test_a_provider_defect_is_caught(config: Config, defect: Callable[[Config], None]) -> None:
    defect(config)
    assert len(list(provider_problems(config))) == 1


@pytest.mark.parametrize(
    "setting",
    [
        {"InstanceType": "g5.3xlarge"},
        {"InstanceMarketOption": {"MarketType": "spot"}},
        {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSise": 9}}]},
    ],
)
def test_a_node_defect_is_caught(config: Config, setting: Config, ec2_run_instances: Any) -> None:
    config["available_node_types"]["a10g"]["node_config"].update(setting)
    assert list(node_problems(config, ec2_run_instances))


@pytest.mark.parametrize(
    "command",
    [
        "test -x a || (echo b",
        "ray get-auth-token",
        "cat ~/.ray/auth_token",
        "set -ex; make",
        "export RAY_AUTH_TOKEN=1",
    ],
)
def test_a_command_defect_is_caught(config: Config, command: str) -> None:
    config["setup_commands"].append(command)
    assert len(list(command_problems(config))) == 1


@pytest.mark.parametrize(
    "piece", ["RAY_AUTH_MODE=token ", "--dashboard-host=127.0.0.1", "--autoscaling-config"]
)
def test_a_start_defect_is_caught(config: Config, piece: str) -> None:
    start = config["head_start_ray_commands"]
    start[:] = [command.replace(piece, "") for command in start]
    assert len(list(start_problems(config))) == 1


def test_a_head_without_boto3_is_caught(config: Config) -> None:
    config["head_setup_commands"] = ["true"]
    assert len(list(start_problems(config))) == 1


def test_another_ray_is_caught(config: Config) -> None:
    setup = config["setup_commands"]
    setup[:] = [command.replace(ray.__version__, "2.1.0") for command in setup]
    assert len(list(pin_problems(config))) == 2

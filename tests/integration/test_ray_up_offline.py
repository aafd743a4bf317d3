"""A whole `ray up`, against a simulated AWS or machines that are not there: no request, no SSH.

EC2 and IAM are moto's. The one door through which Ray runs ssh and rsync is replaced by a recorder,
so that everything between the command line and that door is Ray's own code.
"""

from __future__ import annotations

import gc
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.httpsession
import moto
import pytest
import yaml
from click.testing import CliRunner, Result
from moto.ec2.models.instance_types import InstanceTypeBackend
from ray.autoscaler._private import command_runner, providers, util
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import node_provider, utils
from ray.scripts import scripts

pytestmark = [
    pytest.mark.integration,
    # Ray 2.60 opens the file that it is given, its state and what it sends to the head, and leaves
    # the closing to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file .*cluster.*(yaml|state)'.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*ray-bootstrap-.*:ResourceWarning"),
]

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
TOKEN = "8c1f0c5e-offline-secret"
ADDRESS = "203.0.113.7/32"


def make_security_group(ec2: Any) -> str:
    """Apply the two ingress commands of the header comment to a new group; return its id."""
    group = ec2.create_security_group(GroupName="lvm-triage", Description="from the header")
    header = [line.lstrip("# ") for line in CLUSTER.read_text().splitlines()]
    rules = [line for line in header if "authorize-security-group-ingress" in line]
    for line in rules:
        words = shlex.split(line)[3:]
        flags = dict(zip(words[::2], words[1::2], strict=True))
        assert flags.pop("--group-id") == "$SG"
        rule: dict[str, Any] = {"IpProtocol": flags.pop("--protocol").replace("all", "-1")}
        if "--port" in flags:
            rule["FromPort"] = rule["ToPort"] = int(flags.pop("--port"))
        if "--cidr" in flags:
            cidr = flags.pop("--cidr").replace("FILL_IN_YOUR_ADDRESS/32", ADDRESS)
            rule["IpRanges"] = [{"CidrIp": cidr}]
        if "--source-group" in flags:
            assert flags.pop("--source-group") == "$SG"
            rule["UserIdGroupPairs"] = [{"GroupId": group["GroupId"]}]
        assert not flags, f"the test does not know {flags}"
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    return str(group["GroupId"])


def ingress(ec2: Any, group: str) -> list[tuple[str, int | None, list[str], list[str]]]:
    """The rules of `group` as (protocol, port, address ranges, groups), in a fixed order."""
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return sorted(
        (
            rule["IpProtocol"],
            rule.get("FromPort") if rule["IpProtocol"] != "-1" else None,
            [x["CidrIp"] for x in rule["IpRanges"]] + [x["CidrIpv6"] for x in rule["Ipv6Ranges"]],
            [x["GroupId"] for x in rule["UserIdGroupPairs"]],
        )
        for rule in found["IpPermissions"]
    )


def forget_cached_clients() -> None:
    """Drop what Ray keeps per process; a client made under one mock must not meet the next."""
    for cached in (
        utils.resource_cache,
        utils.client_cache,
        aws_config._get_subnets_or_die,
    ):
        cached.cache_clear()
    providers._clear_provider_cache()
    util._hash_cache.clear()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A simulated AWS account, an empty home with a token, and the recorder of remote commands."""
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray/auth_token").write_text(TOKEN)
    monkeypatch.setenv("HOME", str(home))
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)  # file_mounts are relative to the project

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a request tried to leave this machine")

    monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", refuse)
    # Ray waits 15 s for a new IAM role to spread; nothing spreads here.
    monkeypatch.setattr(aws_config, "time", SimpleNamespace(sleep=lambda s: None, time=time.time))

    sent: list[list[str]] = []
    bootstrap: list[dict[str, Any]] = []

    def record(self: object, final_cmd: list[str], *args: object, **kwargs: object) -> bytes:
        sent.append(final_cmd)
        if final_cmd[-1].endswith(":~/ray_bootstrap_config.yaml"):
            bootstrap.append(json.loads(Path(final_cmd[-2]).read_text()))
        return b""

    monkeypatch.setattr(command_runner.SSHCommandRunner, "_run_helper", record)
    # Ray lists every instance type there is, which takes moto 4 s; those of the file are enough.
    nodes = yaml.safe_load(CLUSTER.read_text())["available_node_types"].values()
    used = {node["node_config"]["InstanceType"] for node in nodes}
    known = [kind for kind in InstanceTypeBackend.instance_types if kind["InstanceType"] in used]
    assert len(known) == len(used)
    monkeypatch.setattr(InstanceTypeBackend, "instance_types", known)

    # Ray attaches two of AWS's own policies to the head; moto knows them only when asked.
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        forget_cached_clients()
        ec2 = boto3.client("ec2", "us-west-2")
        yield SimpleNamespace(ec2=ec2, sent=sent, bootstrap=bootstrap, home=home, tmp=tmp_path)
    forget_cached_clients()
    gc.collect()  # while the warnings of these tests are ignored


def fill_in(cloud: SimpleNamespace) -> tuple[Path, str]:
    """A copy of cluster.yaml with its three blanks filled; the copy and the security group's id."""
    group = make_security_group(cloud.ec2)
    image = cloud.ec2.register_image(Name="ubuntu-22.04-nvidia")["ImageId"]
    text = CLUSTER.read_text()
    for blank, value in {
        "FILL_IN_AMI_ID": image,
        "FILL_IN_SECURITY_GROUP_ID": group,
        "FILL_IN_EFS_ID": "fs-0123456789abcdef0",
    }.items():
        text = text.replace(blank, value)
    path = cloud.tmp / "cluster.yaml"
    path.write_text(text)
    return path, group


def ray_up(path: Path) -> Result:
    flags = ["--yes", "--no-config-cache", "--log-style=record", "--log-color=false"]
    return CliRunner().invoke(scripts.up, [str(path), *flags])


def instances(ec2: Any) -> list[dict[str, Any]]:
    return [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]


def remote_commands(sent: list[list[str]]) -> list[str]:
    """What each ssh call asked the far shell to run, with Ray's own wrapping taken off."""
    wrapping = re.compile(r"^source ~/\.bashrc; export [^&]*&& \((.*)\)$", re.DOTALL)
    found = []
    for call in sent:
        if call[0] == "ssh":
            (script,) = shlex.split(call[-1])
            wrapped = wrapping.match(script)
            assert wrapped, script
            found.append(wrapped.group(1))
    return found


def test_ray_up_makes_the_head_as_written(cloud: SimpleNamespace) -> None:
    path, group = fill_in(cloud)
    rules = ingress(cloud.ec2, group)
    groups = len(cloud.ec2.describe_security_groups()["SecurityGroups"])

    result = ray_up(path)

    assert result.exit_code == 0, result.output
    config = yaml.safe_load(path.read_text())
    (head,) = instances(cloud.ec2)
    assert (
        head["InstanceType"]
        == config["available_node_types"]["head"]["node_config"]["InstanceType"]
    )
    assert "InstanceLifecycle" not in head, "the head must not be on spot"
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert [g["GroupId"] for g in head["SecurityGroups"]] == [group]
    # Ray neither made a group of its own nor touched this one.
    assert len(cloud.ec2.describe_security_groups()["SecurityGroups"]) == groups
    assert ingress(cloud.ec2, group) == rules
    assert rules == [("-1", None, [], [group]), ("tcp", 22, [ADDRESS], [])]

    check_setup(config, cloud)
    check_token(result, cloud)


def check_setup(config: dict[str, Any], cloud: SimpleNamespace) -> None:
    """Every mounted file is sent before the first command; commands come in the file's order."""
    written = [
        *config["initialization_commands"],
        *config["setup_commands"],
        *config["head_setup_commands"],
        *config["head_start_ray_commands"],
    ]
    ran = remote_commands(cloud.sent)
    # Ray asks for `uptime`, makes the target folders and puts variables before `ray start`.
    own = [c for c in ran if c != "uptime" and not c.startswith("mkdir -p ")]
    assert len(own) == len(written)
    assert all(ours.endswith(theirs) for ours, theirs in zip(own, written, strict=True))
    assert 'RAY_OVERRIDE_RESOURCES=\'{"CPU":0,"GPU":0}\'' in own[-1]

    copies = [k for k, call in enumerate(cloud.sent) if call[0] == "rsync"]
    first = next(k for k, call in enumerate(cloud.sent) if "cloud-init" in call[-1])
    assert max(copies) < first
    targets = {cloud.sent[k][-1].split(":", 1)[1].rstrip("/") for k in copies}
    assert targets == set(config["file_mounts"]) | {
        "~/ray_bootstrap_config.yaml",
        "~/ray_bootstrap_key.pem",
    }


def check_token(result: Result, cloud: SimpleNamespace) -> None:
    """The token is copied as a file and is nowhere else: no output, no command, no config."""
    token_file = str(cloud.home / ".ray/auth_token")
    assert [call[-2] for call in cloud.sent if call[-1].endswith("auth_token")] == [token_file]
    assert TOKEN not in result.output
    assert TOKEN not in json.dumps(cloud.sent)
    assert TOKEN not in json.dumps(cloud.bootstrap)


def test_workers_that_the_head_would_start_are_spot_and_closed(cloud: SimpleNamespace) -> None:
    path, group = fill_in(cloud)
    assert ray_up(path).exit_code == 0
    (config,) = cloud.bootstrap  # what the autoscaler on the head reads
    assert config["max_workers"] == 4
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "/home/ubuntu/.ray/auth_token"
    provider = node_provider.AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, accelerator in {"a10g": "A10G", "l40s": "L40S"}.items():
        node_type = config["available_node_types"][name]
        # Read from EC2's own description of the type: the file and the machine must agree.
        resources = node_type["resources"]
        assert (resources["CPU"], resources["GPU"]) == (8, 1)
        assert f"accelerator_type:{accelerator}" in resources
        (worker,) = provider.create_node(node_type["node_config"], {}, 1).values()
        assert worker.instance_type == node_type["node_config"]["InstanceType"]
        assert worker.instance_lifecycle == "spot"
        # moto calls every market spot, so the market itself is read as well.
        assert node_type["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert [g["GroupId"] for g in worker.security_groups] == [group]
        assert worker.iam_instance_profile is None, "a worker needs no rights in the account"


def test_blanks_left_open_start_nothing(cloud: SimpleNamespace) -> None:
    result = ray_up(CLUSTER)
    assert "Failed to detect a security group" in str(result.exception) + result.output
    assert instances(cloud.ec2) == []
    assert cloud.sent == []


def test_a_home_without_a_token_sends_nothing(cloud: SimpleNamespace) -> None:
    shutil.rmtree(cloud.home / ".ray")
    path, _ = fill_in(cloud)
    result = ray_up(path)
    assert isinstance(result.exception, FileNotFoundError)
    assert result.exception.filename == str(cloud.home / ".ray/auth_token")
    assert cloud.sent == []


# --- machines of one's own ------------------------------------------------------------------------

MACHINES = {
    "FILL_IN_HEAD_IP": "10.0.0.10",
    "FILL_IN_WORKER_IPS": "10.0.0.11, 10.0.0.12",
    "FILL_IN_SSH_USER": "ada",
}


@pytest.fixture
def machines(
    cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> tuple[SimpleNamespace, Path]:
    """cluster-local.yaml with its blanks filled in, a key, and a folder of Ray's own."""
    monkeypatch.setenv("RAY_TMPDIR", str(cloud.tmp / "ray"))
    (cloud.home / ".ssh").mkdir()
    (cloud.home / ".ssh/id_ed25519").write_text("a key that opens nothing")
    text = (ROOT / "cluster-local.yaml").read_text()
    for blank, value in MACHINES.items():
        text = text.replace(blank, value)
    path = cloud.tmp / "cluster-local.yaml"
    path.write_text(text)
    return cloud, path


def test_ray_up_sets_up_a_head_of_ones_own(machines: tuple[SimpleNamespace, Path]) -> None:
    cloud, path = machines
    result = ray_up(path)
    assert result.exit_code == 0, result.output
    config = yaml.safe_load(path.read_text())
    assert {call[-1].partition(":")[0] for call in cloud.sent if call[0] == "rsync"} == {
        "ada@10.0.0.10"
    }
    ran = remote_commands(cloud.sent)
    own = [c for c in ran if c != "uptime" and not c.startswith("mkdir -p ")]
    written = [
        *config["initialization_commands"],
        *config["setup_commands"],
        *config["head_start_ray_commands"],
    ]
    assert len(own) == len(written)
    assert all(ours.endswith(theirs) for ours, theirs in zip(own, written, strict=True))
    assert not any("mountpoint" in command for command in own)  # for workers alone
    assert "--num-cpus=0 --num-gpus=0" in own[-1]
    check_token(result, cloud)


def test_a_head_of_ones_own_starts_every_worker(machines: tuple[SimpleNamespace, Path]) -> None:
    cloud, path = machines
    assert ray_up(path).exit_code == 0
    (config,) = cloud.bootstrap  # what the autoscaler on the head reads
    (node_type,) = config["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (2, 2)
    # Mounted from where they lie on the head; `~` is the home of each machine.
    assert all(remote == local for remote, local in config["file_mounts"].items())
    assert "~/lvm-triage/lvm" in config["file_mounts"]
    assert "mountpoint -q /shared" in " ".join(config["worker_setup_commands"])
    assert config["auth"]["ssh_private_key"] == "~/ray_bootstrap_key.pem"

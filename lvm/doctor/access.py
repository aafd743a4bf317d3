"""Who can reach the machines of a cluster file, and what its commands start and show."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from lvm.doctor.ray_file import NodeType, RayFile
from lvm.doctor.versions import Expected
from lvm.doctor.yaml_file import Code, Defect, Place, error, warning

MIN_DISK_GIB = 60
_OPEN = re.compile(r"\b0\.0\.0\.0/0|(?<![\w:])::/0")
TOKEN_FILE = ".ray/auth_token"
_DASHBOARD = re.compile(r"--dashboard-host[= ]['\"]?(0\.0\.0\.0|::)")
_EXPOSED = re.compile(
    r"RAY_AUTH_TOKEN=|get-auth-token(?![^;&|]*>\s*/dev/null)|\bset -\w*[xv]"
    r"|\b(?:cat|echo|tee|head|less|printf)\b[^;&|]*auth_token"
)


def check_access(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find open doors, images that change under one's feet, zones of another region."""
    for number, line in file.code_lines():
        if _OPEN.search(line):
            yield error(
                Code.OPEN_INGRESS,
                number,
                f"{line.strip()} lets the whole internet in.",
                "CidrIp: YOUR_ADDRESS/32",
            )
    for number, line in enumerate(file.file.lines, 1):
        if "--cidr" in line and _OPEN.search(line):
            yield error(
                Code.OPEN_INGRESS,
                number,
                "this command lets the whole internet in.",
                "--cidr YOUR_ADDRESS/32",
            )
    if file.provider != "aws":
        return
    group = file.root.at("provider", "security_group")
    if group.exists:
        yield group.error(
            Code.OPEN_INGRESS,
            "Ray opens SSH to 0.0.0.0/0 in every security group that it manages.",
            "remove security_group, and name SecurityGroupIds in each node_config",
        )
    found: dict[tuple[Code, int], Defect] = {}
    for node_type in file.node_types():
        for defect in _check_node_config(node_type):
            found.setdefault((defect.code, defect.line), defect)
    yield from found.values()
    yield from _check_zones(file)


def _check_node_config(node_type: NodeType) -> Iterator[Defect]:
    config, name = node_type.config, node_type.name
    interfaces = config.at("NetworkInterfaces").items()
    groups = config.at("SecurityGroupIds")
    if not groups.items() and not any(i.at("Groups").exists for i in interfaces):
        yield groups.error(
            Code.OPEN_INGRESS,
            f"{name} names no security group, so Ray creates one that is open to 0.0.0.0/0.",
            "SecurityGroupIds: [sg-...]",
        )
    image = config.at("ImageId")
    if image.text.lower() in ("", "latest_dlami"):
        yield image.error(
            Code.IMAGE_DEFAULT,
            f"{name} names no image, so Ray uses its default, which is too old for torch.",
            "ImageId: ami-... (the command in the header of cluster.yaml prints one)",
        )
    tokens = config.at("MetadataOptions", "HttpTokens")
    if tokens.text != "required":
        yield tokens.error(
            Code.METADATA_OPEN,
            f"{name} answers metadata requests without a token, so a job can read the "
            "credentials of its node.",
            "MetadataOptions: {HttpTokens: required, HttpPutResponseHopLimit: 1}",
        )
    sizes = [d.at("Ebs", "VolumeSize") for d in config.at("BlockDeviceMappings").items()]
    sizes = [size for size in sizes if isinstance(size.value, int)]
    if sizes and max(size.value for size in sizes) < MIN_DISK_GIB:
        yield sizes[0].warning(
            Code.DISK_SMALL,
            f"{name} has a disk of {sizes[0].value} GiB; the image, torch and spilled objects "
            f"need {MIN_DISK_GIB}.",
            "VolumeSize: 200",
        )


def _check_zones(file: RayFile) -> Iterator[Defect]:
    region = file.root.at("provider", "region").text
    zones = file.root.at("provider", "availability_zone")
    for zone in zones.text.split(","):
        if zone.strip() and region and not re.fullmatch(rf"{re.escape(region)}[a-z]", zone.strip()):
            yield zones.error(
                Code.ZONE_WRONG,
                f"{zone.strip()} is not a zone of {region}.",
                f"availability_zone: {region}a",
            )


def check_commands(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find commands that bash cannot read, and those that show the token."""
    for command in file.commands():
        if problem := bash_problem(command.text):
            yield command.error(
                Code.COMMAND_SYNTAX,
                f"bash cannot read this command: {problem}",
                "try it with bash -n -c 'COMMAND'",
            )
    options = [
        option
        for key in ("run_options", "head_run_options", "worker_run_options")
        for option in file.root.at("docker", key).items()
    ]
    for place in (*file.commands(), *options):
        if shown := _EXPOSED.search(place.text):
            yield error(
                Code.TOKEN_EXPOSED,
                place.line_of(shown.group()),
                f"{shown.group().strip()} exposes the token to logs and ps.",
                "mount ~/.ray/auth_token in file_mounts, and name it in no command",
            )


def bash_problem(command: str) -> str:
    """Return what bash finds wrong with a command; nothing when bash is not there."""
    bash = shutil.which("bash")
    if bash is None:
        return ""
    done = subprocess.run([bash, "-n"], input=command, capture_output=True, text=True, timeout=10)
    said = done.stderr.strip().splitlines()
    return said[0].partition(": ")[2] or said[0] if done.returncode and said else ""


def check_start(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find a Ray that starts without a token, with an open dashboard, or without workers."""
    for key, role in (("head_start_ray_commands", "head"), ("worker_start_ray_commands", "worker")):
        place = file.root.at(key)
        starts = [c for c in file.commands(key) if re.search(r"\bray start\b", c.text)]
        if not starts:
            yield place.error(
                Code.TOKEN_MISSING if place.exists else Code.OPEN_INGRESS,
                f"{key} do not start Ray, so Ray's default starts it without a token and with "
                "an open dashboard.",
                f"{key}: those of cluster.yaml",
            )
        for start in starts:
            yield from _check_start(file, start, role)
    yield from _check_token_file(file)
    yield from _check_boto3(file)


def _check_start(file: RayFile, start: Place, role: str) -> Iterator[Defect]:
    line = start.line_of("ray start")
    environment = start.text + " ".join(
        option.text for option in file.root.at("docker", "run_options").items()
    )
    if "RAY_AUTH_MODE=token" not in environment:
        yield error(
            Code.TOKEN_MISSING,
            line,
            f"the {role} starts Ray without a token, so anyone who reaches the port can run code.",
            "RAY_AUTH_MODE=token ray start ...",
        )
    if host := _DASHBOARD.search(start.text):
        yield error(
            Code.DASHBOARD_OPEN,
            start.line_of(host.group()),
            f"the dashboard listens on {host.group(1)}, so anyone who reaches it can start jobs.",
            "--dashboard-host=127.0.0.1 (ray dashboard CLUSTER_FILE forwards it)",
        )
    if role == "worker" and "RAY_HEAD_IP" not in start.text:
        yield error(
            Code.START_COMMAND,
            line,
            "the worker starts Ray without the head's address.",
            "ray start --address=$RAY_HEAD_IP:6379",
        )
    if role == "head" and "--autoscaling-config" not in start.text:
        yield error(
            Code.START_COMMAND,
            line,
            "without --autoscaling-config the head never starts a worker.",
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        )
    if role == "head" and file.local and not re.search(r"--num-cpus[= ]0\b", start.text):
        yield warning(
            Code.HEAD_TAKES_ARMS,
            line,
            "the head runs arms, which may starve Ray's own services.",
            "ray start --head --num-cpus=0 --num-gpus=0",
        )


def _check_token_file(file: RayFile) -> Iterator[Defect]:
    mounts = file.root.at("file_mounts")
    if not any(remote.endswith(TOKEN_FILE) for remote, _ in mounts.entries()):
        yield mounts.error(
            Code.TOKEN_MISSING,
            "no node gets the token, so none can join.",
            f"file_mounts: ~/{TOKEN_FILE}: ~/{TOKEN_FILE}",
        )


def _check_boto3(file: RayFile) -> Iterator[Defect]:
    """Ray's default installs boto3 for the system's Python; a list of one's own replaces it."""
    own = file.root.at("head_setup_commands")
    commands = " ".join(c.text for c in file.commands("setup_commands", "head_setup_commands"))
    if (
        file.provider == "aws"
        and own.exists
        and "boto3" not in commands
        and not list(file.images())
    ):
        yield own.error(
            Code.START_COMMAND,
            "the autoscaler on the head has no boto3, so it never starts a worker.",
            "head_setup_commands: [/home/ubuntu/venv/bin/pip install boto3]",
        )

"""Who can reach the machines of a cluster file, and what is requested from the provider."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lvm.doctor.defect import Code, Defect, error
from lvm.doctor.ray_file import NodeType, RayFile
from lvm.doctor.versions import Expected

MIN_DISK_GIB = 60
_OPEN = re.compile(r"\b0\.0\.0\.0/0|(?<![\w:])::/0")


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

"""Unknown keys, and keys that Ray's schema refuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from lvm.core.registry import closest
from lvm.doctor import ec2, ray_schema
from lvm.doctor.ray_file import RayFile
from lvm.doctor.versions import Expected
from lvm.doctor.yaml_file import Code, Defect, Place, error, warning

# What Ray 2.60 reads from the provider section; its schema lets every other key through unread.
_EVERY_PROVIDER = {
    "type",
    "use_internal_ips",
    "use_external_head_ip",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
}
PROVIDER_KEYS: dict[str, set[str]] = {
    "aws": {
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "security_group",
        "key_pair",
        "aws_credentials",
        "max_terminate_nodes",
        "cloudwatch",
    },
    "gcp": {"region", "availability_zone", "project_id", "cache_stopped_nodes", "gcp_credentials"},
    "local": {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}


def unknown_key(
    place: Place, key: str, known: Iterable[str], where: str, *, complete: bool = True
) -> Defect:
    """Return the defect of an unknown key.

    Where the known keys are not complete, one that is near to none of them is a warning.
    """
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    what = f"{key} is not a key of {where}{closest(key, names)}."
    if near:
        return place.error(Code.KEY_UNKNOWN, what, f"{near[0]}:")
    report = error if complete else warning
    return report(Code.KEY_UNKNOWN, place.line, what, f"remove {key}")


def check_keys(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find keys that Ray or EC2 do not know."""
    unknown = list(_against(file.root, ray_schema.schema(), "a Ray cluster file"))
    provider = file.root.at("provider")
    known = PROVIDER_KEYS.get(file.provider)
    if known is not None:
        unknown += [
            unknown_key(place, key, known | _EVERY_PROVIDER, f"provider {file.provider}")
            for key, place in provider.entries()
            if key not in known | _EVERY_PROVIDER
        ]
    yield from unknown
    if file.provider == "aws":
        yield from _check_ec2(file)
    refused = ray_schema.refusal(file.root.value)
    if refused is not None and not refused.unknown_key:
        named = [(name,) for name in re.findall(r"`(\w+)`", refused.reason)]  # where no path is
        paths = [p for p in (refused.path, *named) if p and file.root.at(*p).exists]
        place = file.root.at(*paths[0]) if paths else file.root
        name = ".".join(map(str, paths[0])) if paths else "the file"
        yield place.error(
            Code.RAY_SCHEMA,
            f"Ray refuses {name}: {refused.reason}",
            "see https://docs.ray.io/en/latest/cluster/vms/references/ray-cluster-configuration.html",
        )


def _against(place: Place, schema: ray_schema.Schema, where: str) -> Iterator[Defect]:
    """Find the keys that a closed part of Ray's schema does not list."""
    known, patterns = schema.properties, list(schema.pattern_properties.values())
    for key, below in place.entries():
        if key in known:
            yield from _against(below, known[key], key)
        elif patterns:
            yield from _against(below, patterns[0], f"{where}.{key}")
        elif schema.additional_properties is False:
            yield unknown_key(below, key, known, where)


def _check_ec2(file: RayFile) -> Iterator[Defect]:
    if not ec2.is_installed():
        yield file.root.at("provider").warning(
            Code.NOT_CHECKED,
            "the keys of node_config were not checked: boto3 is not installed, which ray up needs.",
            "pip install boto3",
        )
        return
    found: dict[tuple[str, int], Defect] = {}  # an anchor's line is one defect, however often used
    for node_type in file.node_types():
        for key, place, known in ec2.unknown_keys(node_type.config):
            found[key, place.line] = unknown_key(place, key, known, "EC2's node_config")
    yield from found.values()


def check_placeholders(lines: Iterable[tuple[int, str]]) -> Iterator[Defect]:
    """Name every blank that is still to be filled in."""
    for number, line in lines:
        for blank in re.findall(r"FILL_IN\w*", line):
            yield error(
                Code.PLACEHOLDER,
                number,
                f"{blank} is still a placeholder.",
                f"fill it in: {line.strip()} (the file's header says how to get it)",
            )

"""Machine types of clouds: vCPUs, memory and GPUs of the families that make sense here.

The AWS numbers are checked against EC2's own description of its types in the tests.
"""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The size of a machine type; memory in GiB."""

    cpus: int
    memory: float
    gpus: int = 0
    gpu: str = ""


# One line a family: GPU, then SIZE=GPUs/memory for each size; vCPUs follow from the size.
_AWS_GPU = """
g4dn     T4    xlarge=1/16 2xlarge=1/32 4xlarge=1/64 8xlarge=1/128 12xlarge=4/192 16xlarge=1/256
g5       A10G  xlarge=1/16 2xlarge=1/32 4xlarge=1/64 8xlarge=1/128 12xlarge=4/192 16xlarge=1/256 24xlarge=4/384 48xlarge=8/768
g6       L4    xlarge=1/16 2xlarge=1/32 4xlarge=1/64 8xlarge=1/128 12xlarge=4/192 16xlarge=1/256 24xlarge=4/384 48xlarge=8/768
g6e      L40S  xlarge=1/32 2xlarge=1/64 4xlarge=1/128 8xlarge=1/256 12xlarge=4/384 16xlarge=1/512 24xlarge=4/768 48xlarge=8/1536
gr6      L4    4xlarge=1/128 8xlarge=1/256
p3       V100  2xlarge=1/61 8xlarge=4/244 16xlarge=8/488
p3dn     V100  24xlarge=8/768
p4d      A100  24xlarge=8/1152
p4de     A100  24xlarge=8/1152
p5       H100  4xlarge=1/256 48xlarge=8/2048
p5e      H200  48xlarge=8/2048
p5en     H200  48xlarge=8/2048
p6-b200  B200  48xlarge=8/2048
"""  # noqa: E501  # a table

# Families without GPUs: GiB per vCPU, and the multiples of an xlarge (4 vCPUs) they come in.
_AWS_CPU = {
    "m5": (4, (1, 2, 4, 8, 12, 16, 24)),
    "m6i": (4, (1, 2, 4, 8, 12, 16, 24, 32)),
    "m6a": (4, (1, 2, 4, 8, 12, 16, 24, 32, 48)),
    "m7i": (4, (1, 2, 4, 8, 12, 16, 24, 48)),
    "m7a": (4, (1, 2, 4, 8, 12, 16, 24, 32, 48)),
    "c6i": (2, (1, 2, 4, 8, 12, 16, 24, 32)),
    "c7i": (2, (1, 2, 4, 8, 12, 16, 24, 48)),
    "c7a": (2, (1, 2, 4, 8, 12, 16, 24, 32, 48)),
    "r5": (8, (1, 2, 4, 8, 12, 16, 24)),
    "r6i": (8, (1, 2, 4, 8, 12, 16, 24, 32)),
    "r7i": (8, (1, 2, 4, 8, 12, 16, 24, 48)),
    "t3": (4, (1, 2)),
}

_GCP_GPU = """
g2-standard-4     4    16  1 nvidia-l4
g2-standard-8     8    32  1 nvidia-l4
g2-standard-12   12    48  1 nvidia-l4
g2-standard-16   16    64  1 nvidia-l4
g2-standard-24   24    96  2 nvidia-l4
g2-standard-32   32   128  1 nvidia-l4
g2-standard-48   48   192  4 nvidia-l4
g2-standard-96   96   384  8 nvidia-l4
a2-highgpu-1g    12    85  1 nvidia-tesla-a100
a2-highgpu-2g    24   170  2 nvidia-tesla-a100
a2-highgpu-4g    48   340  4 nvidia-tesla-a100
a2-highgpu-8g    96   680  8 nvidia-tesla-a100
a2-megagpu-16g   96  1360 16 nvidia-tesla-a100
a2-ultragpu-1g   12   170  1 nvidia-a100-80gb
a2-ultragpu-2g   24   340  2 nvidia-a100-80gb
a2-ultragpu-4g   48   680  4 nvidia-a100-80gb
a2-ultragpu-8g   96  1360  8 nvidia-a100-80gb
a3-highgpu-1g    26   234  1 nvidia-h100-80gb
a3-highgpu-2g    52   468  2 nvidia-h100-80gb
a3-highgpu-4g   104   936  4 nvidia-h100-80gb
a3-highgpu-8g   208  1872  8 nvidia-h100-80gb
a3-megagpu-8g   208  1872  8 nvidia-h100-mega-80gb
a3-ultragpu-8g  224  2952  8 nvidia-h200-141gb
"""

# GPUs that are added to a machine by guestAccelerators, with the counts that Google offers.
GCP_ACCELERATORS = {
    "nvidia-tesla-t4": (1, 2, 4),
    "nvidia-tesla-p4": (1, 2, 4),
    "nvidia-tesla-p100": (1, 2, 4),
    "nvidia-tesla-v100": (1, 2, 4, 8),
    "nvidia-l4": (1, 2, 4, 8),
    "nvidia-tesla-a100": (1, 2, 4, 8, 16),
    "nvidia-a100-80gb": (1, 2, 4, 8),
    "nvidia-h100-80gb": (1, 2, 4, 8),
    "nvidia-h100-mega-80gb": (8,),
    "nvidia-h200-141gb": (8,),
}
_GCP_CPU = {  # GiB per vCPU, and the vCPUs that the family comes with
    "n1-standard": (3.75, (1, 2, 4, 8, 16, 32, 64, 96)),
    "n1-highmem": (6.5, (2, 4, 8, 16, 32, 64, 96)),
    "n2-standard": (4, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "n2-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "e2-standard": (4, (2, 4, 8, 16, 32)),
    "e2-highmem": (8, (2, 4, 8, 16)),
    "c3-standard": (4, (4, 8, 22, 44, 88, 176)),
}


@functools.cache
def aws_machines() -> dict[str, Machine]:
    """Return the known EC2 instance types."""
    found = {}
    for line in _AWS_GPU.strip().splitlines():
        family, gpu, *sizes = line.split()
        for size, held in (entry.split("=") for entry in sizes):
            gpus, memory = map(int, held.split("/"))
            cpus = 4 * int(size.removesuffix("xlarge") or 1)
            found[f"{family}.{size}"] = Machine(cpus=cpus, memory=memory, gpus=gpus, gpu=gpu)
    for family, (per_cpu, multiples) in _AWS_CPU.items():
        found[f"{family}.large"] = Machine(cpus=2, memory=2 * per_cpu)
        for multiple in multiples:
            name = f"{family}.{'' if multiple == 1 else multiple}xlarge"
            found[name] = Machine(cpus=4 * multiple, memory=4 * multiple * per_cpu)
    return found


@functools.cache
def gcp_machines() -> dict[str, Machine]:
    """Return the known machine types of Google Cloud."""
    found = {}
    for line in _GCP_GPU.strip().splitlines():
        name, cpus, memory, gpus, gpu = line.split()
        found[name] = Machine(cpus=int(cpus), memory=int(memory), gpus=int(gpus), gpu=gpu)
    for family, (per_cpu, counts) in _GCP_CPU.items():
        for count in counts:
            found[f"{family}-{count}"] = Machine(cpus=count, memory=count * per_cpu)
    return found


def family_known(name: str, machines: dict[str, Machine], separator: str) -> bool:
    """Return whether the family is known: a size that is missing from it does not exist."""
    family = name.rpartition(separator)[0]
    return any(known.rpartition(separator)[0] == family for known in machines)


def nearest(name: str, machines: dict[str, Machine], *, gpus: bool) -> str:
    """Return the known type that is nearest to `name`, with GPUs if `gpus`.

    In a known family that is the nearest size, otherwise the most similar name.
    """
    fitting = [known for known, machine in machines.items() if (machine.gpus > 0) == gpus]
    family, wanted = _size(name)
    same = [known for known in fitting if _size(known)[0] == family]
    if wanted and same:
        return min(same, key=lambda known: abs(_size(known)[1] - wanted))
    return difflib.get_close_matches(name, fitting, n=1, cutoff=0.0)[0]


def _size(name: str) -> tuple[str, int]:
    """Return the family of a machine type, and the number in its size; 0 where there is none."""
    found = re.fullmatch(r"(.+)[.-](\d*)(xlarge|g)?", name)
    if found is None:
        return name, 0
    return found.group(1), int(found.group(2) or (1 if found.group(3) else 0))

"""The machines of a cluster file: their types, and whether there are enough of them."""

from __future__ import annotations

from collections.abc import Iterator

from lvm.doctor import ec2
from lvm.doctor.instances import (
    GCP_ACCELERATORS,
    Machine,
    aws_machines,
    family_known,
    gcp_machines,
    nearest,
)
from lvm.doctor.ray_file import NodeType, RayFile, is_blank
from lvm.doctor.versions import Expected
from lvm.doctor.yaml_file import Code, Defect, Place

RAYS_DEFAULT_WORKERS = 2  # max_workers where the file names none
MIN_HEAD_GIB = 8.0


def check_node_types(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find machines that do not exist, are described wrongly, or cannot do their job."""
    node_types = file.node_types()
    for node_type in node_types if any(n.is_head for n in node_types) else ():
        name, machine = instance(file, node_type)
        if name.exists and not is_blank(name.text):
            yield from _check_instance(file, node_type, name, machine)
        if machine is not None:
            yield from _check_resources(node_type, name, machine)
        yield from _check_role(file, node_type, machine, expected)
    yield from _check_capacity(file, expected)


def instance(file: RayFile, node_type: NodeType) -> tuple[Place, Machine | None]:
    """Return where a machine type is named, and its size where that is known."""
    config = node_type.config
    if file.provider == "aws":
        place = config.at("InstanceType")
        return place, aws_machines().get(place.text)
    if file.provider == "gcp":
        place = config.at("machineType")
        name = place.text.rpartition("/")[2]
        machine = gcp_machines().get(name)
        added = [entry.at("acceleratorCount") for entry in config.at("guestAccelerators").items()]
        count = sum(int(entry.value) for entry in added if isinstance(entry.value, int))
        if machine is not None and count:
            machine = Machine(cpus=machine.cpus, memory=machine.memory, gpus=count)
        return place, machine
    return Place(None, config.line, config.line, config.source, exists=False), None


def _check_instance(
    file: RayFile, node_type: NodeType, place: Place, machine: Machine | None
) -> Iterator[Defect]:
    name = place.text.rpartition("/")[2]
    aws = file.provider == "aws"
    known, key = (aws_machines(), "InstanceType") if aws else (gcp_machines(), "machineType")
    if machine is None and not (aws and ec2.is_installed() and name in ec2.instance_types()):
        near = nearest(name, known, gpus=not node_type.is_head)
        certain = aws and ec2.is_installed()
        if certain or ("metal" not in name and family_known(name, known, "." if aws else "-")):
            yield place.error(
                Code.INSTANCE_UNKNOWN,
                f"{node_type.name}: {name} is not a machine type of {file.provider} "
                f"(did you mean {near}?).",
                f"{key}: {near}",
            )
        else:
            yield place.warning(
                Code.NOT_CHECKED,
                f"{node_type.name}: {name} is unknown here, so its CPUs and GPUs were not checked.",
                f"{key}: {near} would be checked",
            )
    for entry in node_type.config.at("guestAccelerators").items():
        yield from _check_accelerator(node_type, entry)


def _check_accelerator(node_type: NodeType, entry: Place) -> Iterator[Defect]:
    place, count = entry.at("acceleratorType"), entry.at("acceleratorCount")
    name = place.text.rpartition("/")[2]
    allowed = GCP_ACCELERATORS.get(name)
    if allowed is None:
        yield place.error(
            Code.INSTANCE_UNKNOWN,
            f"{node_type.name}: {name} is not an accelerator of gcp.",
            f"acceleratorType: one of {', '.join(sorted(GCP_ACCELERATORS))}",
        )
    elif count.value not in allowed:
        yield count.error(
            Code.RESOURCES_WRONG,
            f"{node_type.name}: {name} comes in counts of {', '.join(map(str, allowed))} "
            f"(got {count.value}).",
            f"acceleratorCount: {allowed[0]}",
        )


def _check_resources(node_type: NodeType, name: Place, machine: Machine) -> Iterator[Defect]:
    """Find GPUs and CPUs that the machine does not have: Ray trusts the file."""
    gpus, cpus = node_type.place.at("resources", "GPU"), node_type.place.at("resources", "CPU")
    hidden = node_type.is_head and gpus.value == 0
    if isinstance(gpus.value, int) and gpus.value != machine.gpus and not hidden:
        yield gpus.error(
            Code.RESOURCES_WRONG,
            f"{node_type.name}: GPU is {gpus.value}, but {name.text} has {machine.gpus}.",
            f"GPU: {machine.gpus}",
        )
    if isinstance(cpus.value, int) and cpus.value > machine.cpus:
        yield cpus.error(
            Code.RESOURCES_WRONG,
            f"{node_type.name}: CPU is {cpus.value}, but {name.text} has {machine.cpus}.",
            f"CPU: {machine.cpus}",
        )


def on_spot(config: Place) -> Place | None:
    """Return where a node_config asks for a machine that may be taken back, or None."""
    market = config.at("InstanceMarketOptions", "MarketType")
    if market.text == "spot":
        return market
    scheduling = config.at("scheduling")
    for entry in scheduling.items() or [scheduling]:
        model = entry.at("provisioningModel")
        if entry.at("preemptible").value is True or model.text == "SPOT":
            return scheduling
    return None


def _check_role(
    file: RayFile, node_type: NodeType, machine: Machine | None, expected: Expected
) -> Iterator[Defect]:
    resources, name = node_type.place.at("resources"), node_type.name
    if not node_type.is_head:
        gpus = resources.at("GPU").value
        has = gpus if isinstance(gpus, int) else machine.gpus if machine else None
        if has == 0 and expected.schedule.use_gpu:
            yield resources.error(
                Code.NO_GPU,
                f"{name} has no GPU, but the arms of the cluster preset ask for one each.",
                "InstanceType: g5.2xlarge" if file.provider == "aws" else "a machine with a GPU",
            )
        return
    spot = on_spot(node_type.config)
    if spot is not None:
        yield spot.error(
            Code.HEAD_ON_SPOT,
            f"the head {name} is on spot: if it is reclaimed, the whole cluster is lost.",
            "remove InstanceMarketOptions from the head",
        )
    for key in ("CPU", "GPU"):
        if resources.at(key).value != 0 and (key == "CPU" or (machine and machine.gpus)):
            yield resources.error(
                Code.HEAD_TAKES_ARMS,
                f"the head {name} offers {key}s, so arms may land there and starve the cluster.",
                "resources: {CPU: 0, GPU: 0}",
            )
    if machine is not None and machine.memory < MIN_HEAD_GIB:
        yield node_type.config.error(
            Code.HEAD_SMALL,
            f"the head {name} has {machine.memory:g} GiB; driver, data and Ray's services need "
            f"{MIN_HEAD_GIB:g}.",
            "InstanceType: m7i.xlarge",
        )


def _check_capacity(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find a limit on workers with which the confirming training would wait forever."""
    schedule = expected.schedule
    if file.local:
        yield from _check_machines(file, schedule.confirm_workers)
        return
    place = file.root.at("max_workers")
    ceiling = place.value if place.exists else RAYS_DEFAULT_WORKERS
    if not isinstance(ceiling, int) or not any(n.is_head for n in file.node_types()):
        return  # Ray's own schema refuses both
    held = []
    for node_type in file.node_types():
        if not node_type.is_head:
            _, machine = instance(file, node_type)
            own = node_type.place.at("max_workers").value
            gpus = node_type.place.at("resources", "GPU").value
            gpus = gpus if isinstance(gpus, int) else machine.gpus if machine else 0
            held += [gpus] * min(own if isinstance(own, int) else ceiling, ceiling)
    most = sum(sorted(held, reverse=True)[:ceiling])
    if most < schedule.confirm_workers and any(held):
        yield place.error(
            Code.TOO_FEW_WORKERS,
            f"max_workers allow {most} GPUs, but the cluster preset confirms on "
            f"{schedule.confirm_workers} (schedule.confirm_workers).",
            f"max_workers: {schedule.confirm_workers}, there and in the node types",
        )


def _check_machines(file: RayFile, wanted: int) -> Iterator[Defect]:
    workers = file.root.at("provider", "worker_ips")
    number = len(workers.items())
    if number < wanted and not is_blank(str(workers.value)):
        yield workers.warning(
            Code.TOO_FEW_WORKERS,
            f"{number} workers provide the {wanted} GPUs of a full training only with "
            f"{-(-wanted // max(1, number))} GPUs each.",
            f"name {wanted} machines, or set schedule.confirm_workers = {max(1, number)} in the "
            "recipe",
        )

"""The door to botocore: what EC2 accepts, read from the data files that come with boto3."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

from lvm.doctor.yaml_file import Place

# Ray resolves SubnetIds itself and adds the two counts.
_OF_RAY = {"SubnetIds"}


def is_installed() -> bool:
    """Return whether botocore is installed; `ray up` on AWS needs it too."""
    return importlib.util.find_spec("botocore") is not None


@functools.cache
def _model() -> Any:  # Any: botocore, which is optional, has no types
    import botocore.session

    return botocore.session.get_session().get_service_model("ec2")


@functools.cache
def instance_types() -> frozenset[str]:
    """Return the name of every EC2 instance type."""
    return frozenset(_model().shape_for("InstanceType").enum)


def unknown_keys(node_config: Place) -> Iterator[tuple[str, Place, list[str]]]:
    """Yield (key, its place, known keys) for each key that RunInstances does not accept."""
    shape = _model().operation_model("RunInstances").input_shape
    for key, place in node_config.entries():
        if key not in _OF_RAY:
            yield from _unknown(key, place, shape)


# Any: a shape of botocore.
def _unknown(key: str, place: Place, parent: Any) -> Iterator[tuple[str, Place, list[str]]]:
    shape = parent.members.get(key)
    if shape is None:
        yield key, place, sorted(parent.members)
        return
    while shape.type_name == "list":
        shape = shape.member
    if shape.type_name == "structure":
        for mapping in place.items() or [place]:
            for inner, below in mapping.entries():
                yield from _unknown(inner, below, shape)

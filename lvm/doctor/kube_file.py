"""A file for KubeRay: the RayJob, its pods, and the other documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lvm.doctor.yaml_file import Place, YamlFile

GPU = "nvidia.com/gpu"
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    unit: 2.0**power for unit, power in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40))
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """The pods of the head, or of one group of workers."""

    name: str
    place: Place
    is_head: bool

    @property
    def pod(self) -> Place:
        """The specification of the pod."""
        return self.place.at("template", "spec")

    @property
    def container(self) -> Place:
        """The container that Ray runs in: KubeRay takes the first."""
        return self.pod.at("containers", 0)

    def limit(self, resource: str) -> Place:
        """Return the limit of one resource."""
        return self.container.at("resources", "limits", resource)


@dataclass(frozen=True, kw_only=True)
class KubeFile:
    """The documents of a file with a RayJob."""

    file: YamlFile
    job: Place

    @property
    def cluster(self) -> Place:
        """The specification of the Ray cluster."""
        return self.job.at("spec", "rayClusterSpec")

    def groups(self) -> Iterator[Group]:
        """Yield the head, then the groups of workers."""
        yield Group(name="head", place=self.cluster.at("headGroupSpec"), is_head=True)
        for place in self.cluster.at("workerGroupSpecs").items():
            yield Group(name=place.at("groupName").text or "workers", place=place, is_head=False)

    def of_kind(self, kind: str) -> list[Place]:
        """Return the documents of one kind."""
        return [place for place in self.file.documents if place.at("kind").text == kind]

    def scripts(self) -> list[Place]:
        """Return the entrypoint and the files of the ConfigMaps, where the job's command is."""
        files = [
            f for document in self.of_kind("ConfigMap") for _, f in document.at("data").entries()
        ]
        return [self.job.at("spec", "entrypoint"), *files]


def quantity(place: Place) -> float | None:
    """Return a Kubernetes quantity such as 500m or 32Gi as a number; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", place.text)
    if found is None or found.group(2) not in _UNITS:
        return None
    return float(found.group(1)) * _UNITS[found.group(2)]

"""A file for `ray up`: the parts that the checks need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lvm.doctor.yaml_file import Place, YamlFile

# Keys of commands, in the order in which Ray runs them.
FIRST = "initialization_commands"
EVERYWHERE = "setup_commands"
ON_HEAD = ("head_setup_commands", "head_start_ray_commands")
ON_WORKERS = ("worker_setup_commands", "worker_start_ray_commands")


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """One of available_node_types."""

    name: str
    place: Place
    is_head: bool

    @property
    def config(self) -> Place:
        """What is requested from the provider."""
        return self.place.at("node_config")


@dataclass(frozen=True, kw_only=True)
class RayFile:
    """A cluster file for `ray up`."""

    file: YamlFile
    root: Place

    @property
    def provider(self) -> str:
        """The provider's type: aws, gcp, local, ..."""
        return self.root.at("provider", "type").text

    @property
    def local(self) -> bool:
        """Whether the machines exist already."""
        return self.provider == "local"

    def node_types(self) -> list[NodeType]:
        """Return the node types, the head among them."""
        head = self.root.at("head_node_type").text
        return [
            NodeType(name=name, place=place, is_head=name == head)
            for name, place in self.root.at("available_node_types").entries()
        ]

    def commands(self, *keys: str) -> Iterator[Place]:
        """Yield the commands under these keys; under every key when none is given."""
        for key in keys or (FIRST, EVERYWHERE, *ON_HEAD, *ON_WORKERS):
            yield from self.root.at(key).items()
            for node_type in self.node_types():
                yield from node_type.place.at(key).items()

    def images(self) -> Iterator[Place]:
        """Yield the container images that are named."""
        for docker in (self.root, *(n.place for n in self.node_types())):
            for key in ("image", "head_image", "worker_image"):
                place = docker.at("docker", key)
                if place.text:
                    yield place

    def code_lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, text) of the lines, comments taken off."""
        for number, line in enumerate(self.file.lines, 1):
            yield number, re.sub(r"(^|\s)#.*", "", line)


def is_blank(text: str) -> bool:
    """Return whether a value is still a blank to fill in, and so cannot be checked."""
    return "FILL_IN" in text

"""What nodes see of files: the shared folder of runs, and the files that are sent to them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lvm.core.packages import OWN_PACKAGES
from lvm.doctor.access import TOKEN_FILE
from lvm.doctor.ray_file import EVERYWHERE, FIRST, ON_HEAD, ON_WORKERS, RayFile
from lvm.doctor.versions import Expected
from lvm.doctor.yaml_file import Code, Defect, Place, error

NEEDED = ("pyproject.toml", *OWN_PACKAGES)  # without these the installation on a node fails
_MOUNT = re.compile(r"\bmount\s+(?:-\w+\s+\S+\s+)*(\S+)\s+(/[^\s;&|)'\"]+)")
_FSTAB = re.compile(r"(\S+)\s+(/\S+)\s+(?:nfs4?|efs|lustre|ceph|cifs|beegfs|gpfs)\b")
_GUARD = re.compile(r"\bmountpoint\s+(?:-q\s+)?(/[^\s;&|)'\"]+)")
_LOCAL = re.compile(r"^(/dev/|tmpfs$)")
OUT = re.compile(r"--out[= ](/[^\s'\"]+)")


def check_storage(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find a cluster whose nodes do not share the folder of the run."""
    shared = set(_mounted(file, ON_WORKERS))
    if not file.local:  # a head of one's own may be the machine that exports the folder
        shared &= set(_mounted(file, ON_HEAD))
    place = file.root.at(EVERYWHERE)
    for folder, (source, command) in _mounted(file, (*ON_HEAD, *ON_WORKERS)).items():
        if _LOCAL.match(source):
            yield error(
                Code.STORAGE,
                command.line_of(source),
                f"{folder} is local to one node ({source}), so an arm that moves to another "
                "node loses its checkpoint.",
                f"mount a shared file system at {folder}, for instance EFS or NFS",
            )
    if not shared:
        yield place.error(
            Code.STORAGE,
            "no shared file system is mounted on head and workers, so runs cannot be resumed.",
            "mount one at /shared in setup_commands, as cluster.yaml does",
        )
        return
    for number, line in enumerate(file.file.lines, 1):
        for out in OUT.findall(line):
            if not any(is_below(out, folder) for folder in shared):
                yield error(
                    Code.STORAGE,
                    number,
                    f"--out {out} is not below {' or '.join(sorted(shared))}, which the nodes "
                    "share.",
                    f"--out {min(shared)}/runs/first",
                )


def _mounted(file: RayFile, role: tuple[str, ...]) -> dict[str, tuple[str, Place]]:
    """Return folder -> (what is mounted there, its command) for the nodes of one role."""
    found: dict[str, tuple[str, Place]] = {}
    for command in file.commands(FIRST, EVERYWHERE, *role):
        for pattern in (_MOUNT, _FSTAB):
            for source, folder in pattern.findall(command.text):
                found[folder] = (source, command)
        if file.local:  # a machine of one's own has its mounts already; the command checks them
            for folder in _GUARD.findall(command.text):
                found.setdefault(folder, ("", command))
    return found


def is_below(path: str, folder: str) -> bool:
    """Return whether an absolute path lies in a folder."""
    return PurePosixPath(path).is_relative_to(folder)


def check_mounts(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find files that are not there, code of another checkout, a folder that hides a package."""
    mounts = list(file.root.at("file_mounts").entries())
    here = file.file.path.absolute().parent
    hiding: dict[PurePosixPath, Defect] = {}
    for remote, local in mounts:
        target = PurePosixPath(remote)
        path = Path(os.path.normpath(here / Path(local.text).expanduser()))  # links are followed
        if not path.exists():
            yield _missing(remote, local)
        elif target.name in NEEDED and not path.is_relative_to(here):
            yield local.error(
                Code.MOUNT_OUTSIDE,
                f"{local.text} lies outside {here}, so nodes would run the code of another "
                "checkout.",
                f"{remote}: {path.name}",
            )
        checkout = target if (path / "pyproject.toml").exists() else target.parent
        if checkout.name in OWN_PACKAGES:
            hiding.setdefault(checkout, _shadowing(checkout, target, local))
    yield from hiding.values()
    yield from _incomplete(file, [PurePosixPath(remote) for remote, _ in mounts])


def _incomplete(file: RayFile, targets: list[PurePosixPath]) -> Iterator[Defect]:
    """Find parts of the checkout that are not sent beside its pyproject.toml."""
    for folder in {target.parent for target in targets if target.name == "pyproject.toml"}:
        for name in NEEDED:
            if folder / name not in targets:
                yield file.root.at("file_mounts").error(
                    Code.MOUNT_MISSING,
                    f"{name} is not sent to {folder}, so the installation there fails.",
                    f"{folder}/{name}: {name}",
                )


def _missing(remote: str, local: Place) -> Defect:
    what = f"{local.text} does not exist on this machine."
    if remote.endswith(TOKEN_FILE):
        command = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
        return local.warning(Code.MOUNT_MISSING, what, command)
    return local.error(
        Code.MOUNT_MISSING, what, f"{remote}: a file beside this one, or remove the line"
    )


def _shadowing(checkout: PurePosixPath, target: PurePosixPath, local: Place) -> Defect:
    better = checkout.with_name("lvm-triage")
    return local.error(
        Code.MOUNT_SHADOWS,
        f"the checkout {checkout} hides the package {checkout.name} from workers whose driver "
        f"starts in {checkout.parent}.",
        f"{better / target.relative_to(checkout)}: {local.text}, and so for the whole checkout",
    )

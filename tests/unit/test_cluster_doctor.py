"""`lvm doctor --cluster`: what is wrong with a cluster file, on which line, offline."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from broken_clusters import AWS, BROKEN, KUBE, LOCAL, Broken

import tune_jobs.triage
from lvm import cli
from lvm.core.command import run_command
from lvm.core.errors import DataError
from lvm.doctor import access as command_checks
from lvm.doctor import ec2
from lvm.doctor.cluster_file import Kind, kind_of, lint
from lvm.doctor.instances import aws_machines, gcp_machines
from lvm.doctor.yaml_file import Code, Defect, Severity, read_yaml
from lvm.jobs.presets import preset

ROOT = Path(__file__).parents[2]
FILES = (AWS, LOCAL, KUBE)
PROJECT = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "lvm", "tune_jobs")
README = (ROOT / "docs/cluster.md").read_text()
SCHEDULE = preset("cluster").schedule
VALUES = {
    "FILL_IN_YOUR_ADDRESS": "203.0.113.7",  # of a command in the header
    "FILL_IN_AMI_ID": "ami-0123456789abcdef0",
    "FILL_IN_SECURITY_GROUP_ID": "sg-0123456789abcdef0",
    "FILL_IN_EFS_ID": "fs-0123456789abcdef0",
    "FILL_IN_HEAD_IP": "10.0.0.10",
    "FILL_IN_WORKER_IPS": "10.0.0.11, 10.0.0.12, 10.0.0.13, 10.0.0.14",
    "FILL_IN_SSH_USER": "ada",
    "FILL_IN_STORAGE_CLASS": "efs",
    "FILL_IN_REGISTRY": "registry.example.org",
}
BLANK = re.compile(r"FILL_IN_\w+")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the parts of the checkout, and a home with a token; no network is used."""
    for name in PROJECT:
        (tmp_path / name).symlink_to(ROOT / name)
    token = tmp_path / "home/.ray/auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def refuse(*args: object) -> None:
        raise AssertionError("the doctor works offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def filled(name: str) -> str:
    """The text of a shipped file with its blanks filled in."""
    return BLANK.sub(lambda blank: VALUES[blank.group()], (ROOT / name).read_text())


def linted(project: Path, text: str, name: str = "file.yaml") -> list[Defect]:
    path = project / name
    path.write_text(text)
    return lint(path, SCHEDULE)


def errors(defects: list[Defect]) -> list[tuple[Code, int]]:
    return [(d.code, d.line) for d in defects if d.severity is Severity.ERROR]


def warnings(defects: list[Defect]) -> list[tuple[Code, int]]:
    return [(d.code, d.line) for d in defects if d.severity is Severity.WARNING]


# --- the shipped files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_lacks_its_blanks_alone(project: Path, name: str) -> None:
    text = (ROOT / name).read_text()
    expected = [
        (Code.PLACEHOLDER, number, blank)
        for number, line in enumerate(text.splitlines(), 1)
        if not line.startswith("#")
        for blank in BLANK.findall(line)
    ]
    found = linted(project, text)
    assert [(d.code, d.line, BLANK.search(d.what).group()) for d in found] == expected
    assert {blank for _, _, blank in expected} == set(BLANK.findall(text)) - {
        "FILL_IN_YOUR_ADDRESS"  # of a command in the header
    }


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_with_its_blanks_filled_in_is_clean(project: Path, name: str) -> None:
    assert linted(project, filled(name)) == []


@pytest.mark.parametrize(
    ("name", "kind"), [(AWS, Kind.CLOUD), (LOCAL, Kind.LOCAL), (KUBE, Kind.KUBERAY)]
)
def test_a_file_is_told_by_its_content(name: str, kind: Kind) -> None:
    assert kind_of(read_yaml(ROOT / name)) is kind


def test_a_gcp_file_is_judged_too(project: Path) -> None:
    assert errors(linted(project, GCP)) == []


GCP = """\
cluster_name: gcp
max_workers: 4
provider: {type: gcp, region: us-west1, availability_zone: us-west1-a, project_id: mine}
auth: {ssh_user: ubuntu}
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 0, GPU: 0}
    node_config: {machineType: n2-standard-4}
  l4:
    max_workers: 4
    resources: {CPU: 8, GPU: 1}
    node_config:
      machineType: g2-standard-8
      scheduling: [{preemptible: true}]
  t4:
    max_workers: 4
    resources: {CPU: 8, GPU: 2}
    node_config:
      machineType: n1-standard-8
      guestAccelerators: [{acceleratorType: nvidia-tesla-t4, acceleratorCount: 2}]
docker: {image: "o.org/lvm:2.60.0-py311", container_name: r, run_options: [-v /shared:/shared]}
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
initialization_commands: [sudo mount -t nfs4 10.0.0.2:/runs /shared]
setup_commands: []
head_start_ray_commands:
  - RAY_AUTH_MODE=token ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml
worker_start_ray_commands:
  - RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379
"""


# --- broken files ---------------------------------------------------------------------------------


def line_of(text: str, part: str) -> int:
    assert part in text, part
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize("case", BROKEN, ids=lambda c: f"{c.file}-{c.code}-{c.new[:30].strip()}")
def test_a_broken_file_is_refused_with_the_line_to_fix(project: Path, case: Broken) -> None:
    good = filled(case.file) if "FILL_IN" not in case.old else (ROOT / case.file).read_text()
    assert case.old in good
    text = good.replace(case.old, case.new)
    found = linted(project, text)
    told = [d for d in found if d.code is not Code.PLACEHOLDER]
    found_codes = {d.code for d in told if d.severity is Severity.ERROR}
    assert found_codes == {case.code, *case.also}, told
    assert line_of(text, case.at) in {d.line for d in told if d.code is case.code}, told
    assert all(d.what and d.fix for d in told)


def test_every_kind_of_defect_is_shown() -> None:
    shown = {case.code for case in BROKEN} | {code for _, _, code in KNOWN}
    shown |= {Code.PLACEHOLDER, Code.NOT_CHECKED}
    assert set(Code) == shown
    assert len(BROKEN) >= 20


KNOWN = [  # what a person should know, and the cluster still works
    ("{VolumeSize: 200,", "{VolumeSize: 20,", Code.DISK_SMALL),
    ("--python 3.11 /home", "--python 3.99 /home", Code.PYTHON_VERSION),
    ("~/.ray/auth_token\n", "~/.ray/none/auth_token\n", Code.MOUNT_MISSING),
    (
        "rsync_exclude:",
        "docker: {image: my/lvm:v3, container_name: ray}\nrsync_exclude:",
        Code.IMAGE_TAG,
    ),
]


@pytest.mark.parametrize(("old", "new", "code"), KNOWN)
def test_what_should_be_known_is_a_warning(project: Path, old: str, new: str, code: Code) -> None:
    if code is Code.MOUNT_MISSING:
        (project / "home/.ray/auth_token").unlink()
        old, new = "", ""
    text = filled(AWS).replace(old, new)
    found = linted(project, text)
    assert errors(found) == []
    at = line_of(text, new.splitlines()[0] if new else "  /home/ubuntu/.ray/auth_token")
    assert warnings(found) == [(code, at)]


def test_few_machines_of_ones_own_may_hold_many_gpus(project: Path) -> None:
    text = filled(LOCAL).replace(", 10.0.0.13, 10.0.0.14", "")
    text = text.replace("    --num-cpus=0 --num-gpus=0\n", "")
    found = linted(project, text)
    assert errors(found) == []
    assert {code for code, _ in warnings(found)} == {Code.TOO_FEW_WORKERS, Code.HEAD_TAKES_ARMS}
    assert (Code.TOO_FEW_WORKERS, line_of(text, "  worker_ips:")) in warnings(found)


def test_a_job_that_is_tried_once_is_a_warning(project: Path) -> None:
    text = filled(KUBE).replace("backoffLimit: 3", "backoffLimit: 0")
    assert warnings(linted(project, text)) == [(Code.JOB_RETRY, line_of(text, "  backoffLimit: 0"))]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("g2-standard-8", "g2-standard-9", Code.INSTANCE_UNKNOWN),
        ("nvidia-tesla-t4", "nvidia-t4", Code.INSTANCE_UNKNOWN),
        ("acceleratorCount: 2", "acceleratorCount: 3", Code.RESOURCES_WRONG),
        ("{CPU: 8, GPU: 2}", "{CPU: 8, GPU: 3}", Code.RESOURCES_WRONG),
        ("n2-standard-4}", "n2-standard-4, scheduling: {preemptible: true}}", Code.HEAD_ON_SPOT),
        ("project_id: mine", "project_ID: mine", Code.KEY_UNKNOWN),
        ("[-v /shared:/shared]", "[-e RAY_AUTH_TOKEN=s3cret]", Code.TOKEN_EXPOSED),
    ],
)
def test_a_broken_gcp_file(project: Path, old: str, new: str, code: Code) -> None:
    text = GCP.replace(old, new)
    assert (code, line_of(text, new)) in errors(linted(project, text))


def test_rays_own_commands_left_in_place_are_refused(project: Path) -> None:
    """Without lists of its own a file gets Ray's: a nightly build, no token, an open dashboard."""
    text = filled(AWS)
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        start = text.index(f"\n{key}:")
        end = re.compile(r"\n(?=\S)").search(text, start + 1)
        text = text[:start] + (text[end.start() :] if end else "\n")
    found = {code for code, _ in errors(linted(project, text))}
    assert {Code.RAY_NIGHTLY, Code.OPEN_INGRESS, Code.STORAGE} <= found


def test_without_boto3_ec2s_keys_are_not_called_checked(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2, "is_installed", lambda: False)
    text = filled(AWS)
    assert warnings(linted(project, text)) == [(Code.NOT_CHECKED, line_of(text, "provider:"))]
    # A family that is in no table may exist; another size of a known one does not.
    odd = text.replace("InstanceType: g6e.2xlarge", "InstanceType: g9.2xlarge")
    at = line_of(odd, "InstanceType: g9.2xlarge")
    assert (Code.NOT_CHECKED, at) in warnings(linted(project, odd))
    wrong = text.replace("InstanceType: g6e.2xlarge", "InstanceType: g6e.3xlarge")
    assert errors(linted(project, wrong)) == [(Code.INSTANCE_UNKNOWN, at)]


def test_the_fix_names_the_key_or_type_that_was_meant(project: Path) -> None:
    text = filled(AWS).replace("InstanceType: g5.2xlarge", "InstanceType: g5.2xlarg")
    (defect,) = linted(project, text)
    assert defect.fix == "InstanceType: g5.2xlarge"
    (defect,) = linted(project, filled(AWS).replace("idle_timeout_minutes", "idle_time_minutes"))
    assert defect.fix == "idle_timeout_minutes:"


def test_pins_beside_the_file_count_not_those_installed_here(project: Path) -> None:
    (project / "constraints.txt").unlink()
    (project / "constraints.txt").write_text("ray==2.61.0\n")
    found = linted(project, filled(AWS))
    assert {code for code, _ in errors(found)} == {Code.RAY_VERSION}
    assert "2.61.0" in found[0].fix


@pytest.mark.parametrize("name", FILES)
def test_odd_values_are_defects_and_no_crash(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of a good file, replaced by nothing or a number: each is answered."""
    monkeypatch.setattr(command_checks, "bash_problem", lambda command: "")
    documents = list(yaml.safe_load_all(filled(name)))
    for number, path in enumerate([path for path in paths(documents) if len(path) > 1][::3]):
        odd = copy.deepcopy(documents)
        place = odd
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = (None, -3)[number % 2]
        linted(project, yaml.safe_dump_all(odd))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, below in value.items() if isinstance(value, dict) else ():
        yield from paths(below, (*path, key))
    for key, below in enumerate(value) if isinstance(value, list) else ():
        yield from paths(below, (*path, key))


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words", "a: &a [*a]\n"])
def test_files_that_are_no_cluster_file(project: Path, text: str) -> None:
    assert {d.code for d in linted(project, text)} <= {Code.KIND_UNKNOWN, Code.YAML_SYNTAX}
    assert linted(project, text)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_file_line_and_fix_and_exits_2(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "mine.yaml"
    path.write_text(filled(AWS).replace("g5.2xlarge", "g5.3xlarge"))
    assert run_command(cli.main, ["doctor", "--cluster", str(path)]) == 2
    first, second, last = capsys.readouterr().out.splitlines()
    at = line_of(path.read_text(), "g5.3xlarge")
    assert first.startswith(f"{path}:{at}: error INSTANCE_UNKNOWN: ")
    assert second == "    fix: InstanceType: g5.2xlarge"
    assert last == f"{path}: 1 to fix, 0 to know"


def test_a_clean_file_and_one_with_warnings_exit_0(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "mine.yaml"
    path.write_text(filled(KUBE))
    assert run_command(cli.main, ["doctor", "--cluster", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: nothing to fix\n"
    path.write_text(filled(KUBE).replace("backoffLimit: 3", "backoffLimit: 0"))
    assert run_command(cli.main, ["doctor", "--cluster", str(path)]) == 0
    assert capsys.readouterr().out.endswith("0 to fix, 1 to know\n")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    assert run_command(cli.main, ["doctor", "--cluster", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path} cannot be read")
    with pytest.raises(DataError):
        read_yaml(path)


# --- tables ---------------------------------------------------------------------------------------


def test_the_aws_table_is_what_ec2_says() -> None:
    moto = importlib.util.find_spec("moto")  # whose files are read; importing it takes a second
    with gzip.open(Path(moto.origin).parent / "ec2/resources/instance_types.json.gz") as file:
        told = json.load(file)
    checked = 0
    for name, machine in aws_machines().items():
        assert name in ec2.instance_types()
        if name not in told:  # the recording has no p3
            continue
        gpus = told[name].get("GpuInfo", {}).get("Gpus", [])
        assert machine.cpus == told[name]["VCpuInfo"]["DefaultVCpus"], name
        assert machine.memory == told[name]["MemoryInfo"]["SizeInMiB"] / 1024, name
        assert machine.gpus == sum(gpu["Count"] for gpu in gpus), name
        assert machine.gpu == (gpus[0]["Name"] if gpus else ""), name
        checked += 1
    assert checked >= 100


def test_gcp_names_say_their_cpus_and_gpus() -> None:
    for name, machine in gcp_machines().items():
        family, _, last = name.rpartition("-")
        if last.isdigit():
            assert machine.cpus == int(last), name
        else:
            assert machine.gpus == int(last.removesuffix("g")), name
        assert machine.memory >= machine.cpus * 3.75 or family.startswith("a2"), name


# --- what the files run ---------------------------------------------------------------------------


def triage_commands(text: str) -> list[str]:
    """The flags of every call of triage.py in a text, comments and broken lines joined."""
    text = re.sub(r"(?m)^#", "", text)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        match.split("   (")[0].rstrip()
        for match in re.findall(r"triage\.py['\"]?\s+(--[^\n;#`]*)", joined)
    ]


@pytest.mark.parametrize("name", [*FILES, "docs/cluster.md"])
def test_every_flag_in_the_files_is_one_of_the_triage(name: str) -> None:
    found = triage_commands((ROOT / name).read_text())
    assert any("--address auto" in flags for flags in found)
    for flags in found:
        tune_jobs.triage.parser().parse_args(shlex.split(flags))


def test_readmes_job_line_runs_what_the_cluster_file_installs() -> None:
    mounts = yaml.safe_load((ROOT / AWS).read_text())["file_mounts"]
    (line,) = re.findall(r"^RAY_AUTH_MODE=token ray job submit .*$", README, re.MULTILINE)
    python, script, *flags = shlex.split(line.partition(" -- ")[2])
    assert python == "/home/ubuntu/venv/bin/python"
    folder, _, rest = script.partition("/tune_jobs/")
    assert (mounts[f"{folder}/tune_jobs"], rest) == ("tune_jobs", "triage.py")
    args = tune_jobs.triage.parser().parse_args(flags)
    assert (args.address, args.preset) == ("auto", "cluster")
    assert args.out.is_relative_to("/shared")
    assert python in (ROOT / AWS).read_text()
    assert script in (ROOT / AWS).read_text()


def test_the_readme_names_the_three_files_and_how_to_check_them() -> None:
    for name in FILES:
        assert name in README
    assert "lvm doctor --cluster cluster.yaml" in README


# What the triage ends with, and what the job then ends with: 0 is not tried again.
JOB_STATUS = {0: 0, 1: 0, 3: 0, 2: 2, 70: 70, 75: 75, 130: 130}


@pytest.mark.parametrize(("status", "expected"), JOB_STATUS.items())
def test_the_rayjob_retries_what_can_be_resumed_and_no_verdict(
    tmp_path: Path, status: int, expected: int
) -> None:
    done, called = run_job_script(tmp_path, status, journal=None)
    assert done == expected
    assert "--out" in called
    assert "--resume" not in called


@pytest.mark.parametrize(("journal", "flag"), [("", "--out"), ("{}\n", "--resume")])
def test_the_rayjob_resumes_a_run_that_has_begun(tmp_path: Path, journal: str, flag: str) -> None:
    _, called = run_job_script(tmp_path, 0, journal=journal)
    assert flag in called
    assert called[called.index(flag) + 1] == str(tmp_path / "run")
    assert called[called.index("--address") + 1] == "auto"


def run_job_script(tmp_path: Path, status: int, journal: str | None) -> tuple[int, list[str]]:
    """Run the script of the ConfigMap with a python that ends with `status` and keeps its flags."""
    documents = list(yaml.safe_load_all((ROOT / KUBE).read_text()))
    (script,) = (d["data"]["triage.sh"] for d in documents if d["kind"] == "ConfigMap")
    run = tmp_path / "run"
    assert script.count("run=/shared/runs/first") == 1
    if journal is not None:
        run.mkdir()
        (run / "journal.jsonl").write_text(journal)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/called\nexit {status}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script.replace("run=/shared/runs/first", f"run={run}")],
        env={"PATH": f"{python.parent}:/usr/bin:/bin"},
    )
    return done.returncode, (tmp_path / "called").read_text().split("\n")


def test_the_image_in_the_rayjobs_header_is_built_from_what_is_there() -> None:
    header = (ROOT / KUBE).read_text().partition("apiVersion")[0]
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (base,) = re.findall(r"^#   FROM rayproject/ray:(\S+)$", header, re.MULTILINE)
    assert base == f"{pinned.group(1)}-py311"
    for image in re.findall(r"lvm-triage:(\S+)", (ROOT / KUBE).read_text()):
        assert image == base
    copied = [
        name
        for line in re.findall(r"^#   COPY --chown=ray (.*)$", header, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert set(copied) == set(PROJECT)
    assert f"'ray[default,tune,train]=={pinned.group(1)}' --editable" in header


def test_an_arm_of_the_cluster_preset_outlasts_a_spot_node() -> None:
    """A new node boots and installs torch in about ten minutes; the first may be refused."""
    assert SCHEDULE.wait_minutes >= 20
    assert SCHEDULE.max_restarts >= 3
    assert SCHEDULE.confirm_workers == yaml.safe_load((ROOT / AWS).read_text())["max_workers"]

"""What a RayJob runs: its command, what is tried again, how it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lvm.doctor.defect import Code, Defect, error, warning
from lvm.doctor.keys import unknown_key
from lvm.doctor.kube_file import RAY_JOB, KubeFile, unknown_keys
from lvm.doctor.versions import Expected

API = "ray.io/v1"
_TRIAGE = re.compile(r"triage\.py|\blvm triage\b")
TRIES = 3
# `1|3) exit 0` in a case over the exit status: the verdict NOT_FIXED ends the job, too.
_VERDICT_ENDS = re.compile(r"(?:^|[\s|])1(?:\|\d+)*\)\s*(?:[^;]*;\s*)?exit 0")


def check_job(file: KubeFile, expected: Expected) -> Iterator[Defect]:
    """Find a job that starts on the head alone, retries a verdict, or leaves GPUs behind."""
    api, spec = file.job.at("apiVersion"), file.job.at("spec")
    if api.text != API:
        what = f"apiVersion is {api.text or 'missing'}; KubeRay defines RayJob in {API}."
        yield api.error(Code.KEY_UNKNOWN, what, f"apiVersion: {API}")
    for key, place, known in unknown_keys(file.job, RAY_JOB):
        yield unknown_key(place, key, known, "this part of a RayJob", complete=False)
    yield from _check_command(file)
    yield from _check_retry(file)
    end = spec.at("shutdownAfterJobFinishes")
    if end.value is not True:
        yield end.error(
            Code.NODES_STAY,
            "the GPU nodes keep running after the job has ended.",
            "shutdownAfterJobFinishes: true",
        )
    version = file.cluster.at("rayVersion")
    if version.text != expected.ray:
        yield version.error(
            Code.RAY_VERSION,
            f"rayVersion is {version.text or 'missing'}, but constraints.txt pins Ray "
            f"{expected.ray}.",
            f"rayVersion: '{expected.ray}'",
        )


def _check_command(file: KubeFile) -> Iterator[Defect]:
    entry, scripts = file.job.at("spec", "entrypoint"), file.scripts()
    said = " ".join(script.text for script in scripts)
    place = next((script for script in scripts if _TRIAGE.search(script.text)), None)
    if place is None:
        yield entry.error(
            Code.JOB_COMMAND,
            "neither the entrypoint nor a ConfigMap starts the triage.",
            "entrypoint: bash /etc/lvm/triage.sh, as in kuberay-job.yaml",
        )
        return
    line = place.line_of("triage.py")
    if not re.search(r"--address[= ]auto\b", said):
        yield error(
            Code.JOB_COMMAND,
            line,
            "without --address auto the triage runs only on the head.",
            "triage.py --address auto ...",
        )
    if not re.search(r"--preset[= ]cluster\b|--recipe[= ]", said):
        yield warning(
            Code.JOB_COMMAND,
            line,
            "without --preset cluster the arms use no GPU.",
            "triage.py --preset cluster ...",
        )


def _check_retry(file: KubeFile) -> Iterator[Defect]:
    """A lost head (75) is worth another try, which has to resume; a verdict (1, 3) is the end."""
    limit = file.job.at("spec", "backoffLimit")
    said = " ".join(script.text for script in file.scripts())
    if not limit.value:
        yield limit.warning(
            Code.JOB_RETRY,
            "a lost head ends the job, although its run could be resumed.",
            f"backoffLimit: {TRIES}",
        )
        return
    if not _VERDICT_ENDS.search(said):
        yield limit.error(
            Code.JOB_RETRY,
            "the job is retried after a verdict: NOT_FIXED is exit status 1.",
            "case $status in 1|3) exit 0 ;; esac at the end of the script, or backoffLimit: 0",
        )
    if "--resume" not in said:
        yield limit.error(
            Code.JOB_RETRY,
            "a retry starts in the same --out, which is no longer empty, and is refused.",
            "--resume DIR where DIR/journal.jsonl is there, else --out DIR",
        )

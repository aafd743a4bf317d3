"""What a RayJob runs, and its pods: images, resources, shared volume, token, who gets in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lvm.doctor.keys import unknown_key
from lvm.doctor.kube_file import GPU, RAY_JOB, Group, KubeFile, quantity, unknown_keys
from lvm.doctor.ray_file import is_blank
from lvm.doctor.storage import OUT, is_below
from lvm.doctor.versions import Expected, check_image
from lvm.doctor.yaml_file import Code, Defect, Place, error, warning

MIN_HEAD_BYTES = 8 * 2**30
_SPOT = re.compile(r"spot|preemptible", re.IGNORECASE)
API = "ray.io/v1"
_TRIAGE = re.compile(r"triage\.py|\blvm triage\b")
TRIES = 3
# `1|3) exit 0` in a case over the exit status: the verdict NOT_FIXED ends the job, too.
_VERDICT_ENDS = re.compile(r"(?:^|[\s|])1(?:\|\d+)*\)\s*(?:[^;]*;\s*)?exit 0")


def check_pods(file: KubeFile, expected: Expected) -> Iterator[Defect]:
    """Find pods that cannot do their part."""
    for group in file.groups():
        image = group.container.at("image")
        if not image.exists:
            what = f"{group.name} names no image."
            yield image.error(Code.IMAGE_TAG, what, f"image: lvm-triage:{expected.ray}-py311")
        else:
            yield from check_image(image, expected)
        for resource in ("cpu", "memory"):
            if quantity(group.limit(resource)) is None:
                yield group.container.at("resources").error(
                    Code.RESOURCES_MISSING,
                    f"{group.name} has no {resource} limit, so Ray counts the whole machine's.",
                    f"limits: {{{resource}: {'8' if resource == 'cpu' else '32Gi'}}}",
                )
        yield from _check_head(group) if group.is_head else _check_workers(group, expected)
    yield from _check_capacity(file, expected)


def _check_head(group: Group) -> Iterator[Defect]:
    params = group.place.at("rayStartParams")
    cpus = params.at("num-cpus")
    if cpus.text != "0":
        yield cpus.error(
            Code.HEAD_TAKES_ARMS,
            "the head runs arms, which may starve Ray's own services.",
            'rayStartParams: {num-cpus: "0"}',
        )
    memory = quantity(group.limit("memory"))
    if memory is not None and memory < MIN_HEAD_BYTES:
        yield group.limit("memory").error(
            Code.HEAD_SMALL,
            f"the head has {group.limit('memory').text}; driver, data and Ray's services need 8Gi.",
            "memory: 16Gi",
        )
    for place in (group.pod.at("nodeSelector"), group.pod.at("tolerations")):
        if _SPOT.search(str(place.value)):
            yield place.error(
                Code.HEAD_ON_SPOT,
                "the head may run on spot: if it is reclaimed, the whole cluster is lost.",
                "allow spot only in the worker group",
            )


def _check_workers(group: Group, expected: Expected) -> Iterator[Defect]:
    gpus, params = quantity(group.limit(GPU)), group.place.at("rayStartParams", "num-gpus")
    if not gpus and expected.schedule.use_gpu:
        yield group.container.at("resources", "limits").error(
            Code.NO_GPU,
            f"{group.name} has no GPU, but the arms of the cluster preset ask for one each.",
            f"limits: {{{GPU}: 1}}",
        )
    if params.exists and quantity(params) != gpus:
        yield params.error(
            Code.RESOURCES_WRONG,
            f"{group.name} declares {params.text} GPUs to Ray, but its pods have {gpus or 0:g}.",
            f'num-gpus: "{gpus or 0:g}"',
        )


def _check_capacity(file: KubeFile, expected: Expected) -> Iterator[Defect]:
    wanted, most, last = expected.schedule.confirm_workers, 0.0, file.cluster
    grows = file.cluster.at("enableInTreeAutoscaling").value is True
    for group in file.groups():
        if not group.is_head:
            last = group.place.at("maxReplicas" if grows else "replicas")
            most += (quantity(last) or 0) * (quantity(group.limit(GPU)) or 0)
    if 0 < most < wanted:
        yield last.error(
            Code.TOO_FEW_WORKERS,
            f"the workers have {most:g} GPUs at most, but the cluster preset confirms on {wanted} "
            "(schedule.confirm_workers).",
            f"maxReplicas: {wanted}, with enableInTreeAutoscaling: true",
        )


# --- files, token, doors --------------------------------------------------------------------------


def check_volumes(file: KubeFile, expected: Expected) -> Iterator[Defect]:
    """Find a run folder that some pod does not see, or that is gone with its pod."""
    outs = [(s.line_of(out), out) for s in file.scripts() for out in OUT.findall(s.text)]
    outs += [(s.line_of(run), run) for s in file.scripts() for run in _run_folder(s)]
    for group in file.groups():
        folders = [place.at("mountPath").text for place in _shared_mounts(group)]
        if not folders:
            volumes = group.pod.at("volumes")
            yield volumes.error(
                Code.STORAGE,
                f"{group.name} mounts no persistentVolumeClaim, so its files are lost with the "
                "pod.",
                "volumes: [{name: shared, persistentVolumeClaim: {claimName: lvm-triage}}]",
            )
        for line, out in outs if folders else ():
            if not any(is_below(out, folder) for folder in folders):
                yield error(
                    Code.STORAGE,
                    line,
                    f"the run folder {out} is not below {' or '.join(folders)}, which {group.name} "
                    "mounts.",
                    f"--out {folders[0]}/runs/first",
                )
    for claim in file.of_kind("PersistentVolumeClaim"):
        modes = claim.at("spec", "accessModes")
        if "ReadWriteMany" not in [mode.text for mode in modes.items()]:
            yield modes.error(
                Code.STORAGE,
                f"accessModes are {modes.value}: pods on two nodes cannot both write there.",
                "accessModes: [ReadWriteMany]",
            )


def _run_folder(script: Place) -> list[str]:
    """Return the values of a shell variable `run` that becomes --out."""
    return re.findall(r"\brun=(/\S+)", script.text) if "--out" in script.text else []


def _shared_mounts(group: Group) -> list[Place]:
    volumes = group.pod.at("volumes").items()
    shared = {v.at("name").text for v in volumes if v.at("persistentVolumeClaim").exists}
    mounts = group.container.at("volumeMounts").items()
    return [mount for mount in mounts if mount.at("name").text in shared]


def check_doors(file: KubeFile, expected: Expected) -> Iterator[Defect]:
    """Find a cluster without a token, a token in the file, or a door to the outside."""
    head = file.cluster.at("headGroupSpec")
    for place in (head.at("serviceType"), head.at("headService", "spec", "type")):
        if place.text in ("LoadBalancer", "NodePort"):
            yield place.error(
                Code.OPEN_INGRESS,
                f"a {place.text} opens the dashboard, which starts jobs, to the outside.",
                "ClusterIP, and kubectl port-forward",
            )
    if head.at("enableIngress").value is True:
        line = head.at("enableIngress").line
        what = "the ingress opens the dashboard, which starts jobs, to the outside."
        yield error(Code.OPEN_INGRESS, line, what, "enableIngress: false")
    for document in (*file.of_kind("Service"), *file.of_kind("Ingress")):
        kind = document.at("spec", "type")
        if kind.text in ("LoadBalancer", "NodePort") or document.at("kind").text == "Ingress":
            what = "this opens the cluster to the outside."
            yield kind.error(Code.OPEN_INGRESS, what, "remove it; use kubectl port-forward")
    yield from _check_token(file)


def _check_token(file: KubeFile) -> Iterator[Defect]:
    for document in file.of_kind("Secret"):
        for key in ("data", "stringData"):
            for name, place in document.at(key).entries():
                if place.text and not is_blank(place.text):
                    what = f"the secret {name} is in the file, and so in its history."
                    fix = "remove the Secret; authOptions: {mode: token} lets KubeRay make one"
                    yield place.error(Code.TOKEN_EXPOSED, what, fix)
    by_kuberay = file.cluster.at("authOptions", "mode")
    for group in file.groups():
        names = {entry.at("name").text: entry for entry in group.container.at("env").items()}
        token, mode = names.get("RAY_AUTH_TOKEN"), names.get("RAY_AUTH_MODE")
        if token is not None and token.at("value").exists:
            yield token.at("value").error(
                Code.TOKEN_EXPOSED,
                f"{group.name} has its token in the file, and so in its history.",
                "valueFrom: {secretKeyRef: {name: ray-token, key: auth_token}}",
            )
        own = token is not None and mode is not None and mode.at("value").text == "token"
        if by_kuberay.text != "token" and not own:
            yield by_kuberay.error(
                Code.TOKEN_MISSING,
                f"{group.name} starts Ray without a token, so anyone who reaches the port can "
                "run code.",
                "authOptions: {mode: token}",
            )
            return


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

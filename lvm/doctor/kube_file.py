"""A file for KubeRay: the RayJob, its pods, and the keys that it may have.

KubeRay (1.5, API ray.io/v1) drops a key that it does not know without a word. Parts that are open
(labels, volumes of other kinds, affinity) are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Union

from lvm.doctor.yaml_file import Place, YamlFile

GPU = "nvidia.com/gpu"
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    unit: 2.0**power for unit, power in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40))
}

# A mapping of keys to what is below; None is not looked into. A list has the schema of its items.
Schema = Mapping[str, Union["Schema", None]]


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
        """Return the entrypoint and the files of the ConfigMaps, where the job's command stands."""
        files = [
            f for document in self.of_kind("ConfigMap") for _, f in document.at("data").entries()
        ]
        return [self.job.at("spec", "entrypoint"), *files]


def quantity(place: Place) -> float | None:
    """Return a Kubernetes quantity such as 500m or 32Gi as a number; None when it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", place.text)
    if found is None or found.group(2) not in _UNITS:
        return None
    return float(found.group(1)) * _UNITS[found.group(2)]


def _open(keys: str) -> dict[str, Schema | None]:
    return dict.fromkeys(keys.split(), None)


_RESOURCES: Schema = _open("limits requests claims")
_ENV: Schema = {
    **_open("name value"),
    "valueFrom": {
        **_open("fieldRef resourceFieldRef configMapKeyRef fileKeyRef"),
        "secretKeyRef": _open("name key optional"),
    },
}
_CONTAINER: Schema = {
    **_open(
        "name image imagePullPolicy command args workingDir ports envFrom livenessProbe "
        "readinessProbe startupProbe lifecycle securityContext stdin stdinOnce tty "
        "terminationMessagePath terminationMessagePolicy volumeDevices restartPolicy resizePolicy"
    ),
    "env": _ENV,
    "resources": _RESOURCES,
    "volumeMounts": _open(
        "name mountPath subPath subPathExpr readOnly recursiveReadOnly mountPropagation"
    ),
}
_POD: Schema = {
    **_open(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy "
        "enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers "
        "hostname imagePullSecrets nodeName nodeSelector os overhead preemptionPolicy priority "
        "priorityClassName readinessGates resourceClaims restartPolicy runtimeClassName "
        "schedulerName schedulingGates securityContext serviceAccount serviceAccountName "
        "setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds "
        "tolerations topologySpreadConstraints"
    ),
    "containers": _CONTAINER,
    "initContainers": _CONTAINER,
    "volumes": {
        **_open(
            "name emptyDir hostPath nfs csi secret projected downwardAPI ephemeral image iscsi fc "
            "cephfs rbd glusterfs azureFile azureDisk awsElasticBlockStore gcePersistentDisk"
        ),
        "persistentVolumeClaim": _open("claimName readOnly"),
        "configMap": _open("name items defaultMode optional"),
    },
}
_TEMPLATE: Schema = {"metadata": None, "spec": _POD}
_HEAD: Schema = {
    **_open("serviceType enableIngress rayStartParams resources labels"),
    "headService": {**_open("metadata spec apiVersion kind")},
    "template": _TEMPLATE,
}
_WORKERS: Schema = {
    **_open(
        "groupName replicas minReplicas maxReplicas idleTimeoutSeconds numOfHosts rayStartParams "
        "suspend resources labels"
    ),
    "scaleStrategy": _open("workersToDelete"),
    "template": _TEMPLATE,
}
_CLUSTER: Schema = {
    **_open(
        "rayVersion enableInTreeAutoscaling headServiceAnnotations suspend managedBy "
        "gcsFaultToleranceOptions upgradeStrategy networkPolicy"
    ),
    "authOptions": _open("mode secretName enableK8sTokenAuth"),
    "autoscalerOptions": {
        **_open(
            "image imagePullPolicy envFrom securityContext idleTimeoutSeconds upscalingMode "
            "volumeMounts version"
        ),
        "env": _ENV,
        "resources": _RESOURCES,
    },
    "headGroupSpec": _HEAD,
    "workerGroupSpecs": _WORKERS,
}
RAY_JOB: Schema = {
    **_open("apiVersion kind metadata status"),
    "spec": {
        **_open(
            "entrypoint runtimeEnvYAML jobId submissionMode entrypointNumCpus entrypointNumGpus "
            "entrypointResources metadata clusterSelector backoffLimit activeDeadlineSeconds "
            "preRunningDeadlineSeconds shutdownAfterJobFinishes ttlSecondsAfterFinished suspend "
            "managedBy deletionStrategy deletionPolicy"
        ),
        "submitterConfig": _open("backoffLimit"),
        "submitterPodTemplate": _TEMPLATE,
        "rayClusterSpec": _CLUSTER,
    },
}


def unknown_keys(place: Place, schema: Schema) -> Iterator[tuple[str, Place, list[str]]]:
    """Yield (key, its place, known keys) for each key that the schema does not list."""
    for mapping in place.items() or [place]:
        for key, below in mapping.entries():
            inner = schema.get(key)
            if key not in schema:
                yield key, below, sorted(schema)
            elif inner is not None:
                yield from unknown_keys(below, inner)

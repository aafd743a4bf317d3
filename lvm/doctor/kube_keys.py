"""The keys of a RayJob (KubeRay 1.5, API ray.io/v1) and of the parts of Kubernetes it uses.

KubeRay silently drops a key that it does not know. Parts that allow any key (labels, volumes of
other kinds, affinity) are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Union

from lvm.doctor.yaml_file import Place

# A mapping of keys to their schemas; None is not checked. A list has the schema of its items.
Schema = Mapping[str, Union["Schema", None]]


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

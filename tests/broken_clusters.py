"""Cluster files that are broken in one respect each: small changes of the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass

from lvm.doctor.yaml_file import Code

AWS, LOCAL, KUBE = "cluster.yaml", "cluster-local.yaml", "kuberay-job.yaml"


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A change of a good file, the code of its one error, and a text of the line to fix."""

    file: str
    old: str
    new: str
    code: Code
    at: str
    also: tuple[Code, ...] = ()  # what follows from the one error


def broken(
    file: str, old: str, new: str, code: Code, at: str | None = None, also: tuple[Code, ...] = ()
) -> Broken:
    """`at` is the first line of `new` where none is given."""
    return Broken(file=file, old=old, new=new, code=code, at=at or new.splitlines()[0], also=also)


HEAD_POD = "            - name: ray-head\n              "
HEAD_IMAGE = f"{HEAD_POD}image: registry.example.org/lvm-triage:2.60.0-py311"
HEAD_START = "RAY_AUTH_MODE=token /home/ubuntu/venv/bin/ray start --head"
BROKEN = [
    # not what it looks like
    broken(AWS, "max_workers: 4\n\n", "max_workers: 4: 5\n\n", Code.YAML_SYNTAX),
    broken(LOCAL, "  ssh_user: ada", "\tssh_user: ada", Code.YAML_SYNTAX),
    broken(AWS, "provider:\n", "max_workers: 8\nprovider:\n", Code.YAML_DUPLICATE),
    broken(KUBE, "kind: RayJob", "kind: RayCluster", Code.KIND_UNKNOWN, "# The triage as"),
    # keys
    broken(AWS, "idle_timeout_minutes: 10", "idle_timeout_minute: 10", Code.KEY_UNKNOWN),
    broken(AWS, "  availability_zone:", "  availability_zones:", Code.KEY_UNKNOWN),
    broken(AWS, "    priority: 1", "    prioritty: 1", Code.KEY_UNKNOWN),
    broken(AWS, "InstanceMarketOptions:", "InstanceMarketOption:", Code.KEY_UNKNOWN),
    broken(AWS, "{VolumeSize: 200,", "{VolumeSise: 200,", Code.KEY_UNKNOWN, "Ebs: {VolumeSise"),
    broken(LOCAL, "  head_ip:", "  head_ips:", Code.KEY_UNKNOWN, also=(Code.RAY_SCHEMA,)),
    broken(
        KUBE,
        "  shutdownAfterJobFinishes: true",
        "  shutdownAfterJobFinish: true",
        Code.KEY_UNKNOWN,
        also=(Code.NODES_STAY,),
    ),
    broken(KUBE, "        maxReplicas: 4", "        maxReplica: 4", Code.KEY_UNKNOWN),
    broken(KUBE, "apiVersion: ray.io/v1\n", "apiVersion: ray.io/v1alpha1\n", Code.KEY_UNKNOWN),
    broken(AWS, "max_workers: 4\n\n", "max_workers: four\n\n", Code.RAY_SCHEMA),
    broken(AWS, "head_node_type: head", "head_node_type: main", Code.RAY_SCHEMA),
    # machines
    broken(AWS, "InstanceType: g5.2xlarge", "InstanceType: g5.3xlarge", Code.INSTANCE_UNKNOWN),
    broken(AWS, "InstanceType: m7i.xlarge", "InstanceType: q7i.xlarge", Code.INSTANCE_UNKNOWN),
    broken(
        AWS,
        "    priority: 1 # the cheaper one first\n    resources: {CPU: 8, GPU: 1}",
        "    priority: 1\n    resources: {CPU: 8, GPU: 4}",
        Code.RESOURCES_WRONG,
        "    resources: {CPU: 8, GPU: 4}",
    ),
    broken(
        AWS,
        "    priority: 1 # the cheaper one first\n    resources: {CPU: 8, GPU: 1}",
        "    priority: 1\n    resources: {CPU: 32, GPU: 1}",
        Code.RESOURCES_WRONG,
        "    resources: {CPU: 32",
    ),
    broken(AWS, "max_workers: 4\n\n", "max_workers: 2\n\n", Code.TOO_FEW_WORKERS),
    broken(AWS, "resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4, GPU: 0}", Code.HEAD_TAKES_ARMS),
    broken(
        AWS,
        "      InstanceType: m7i.xlarge",
        "      InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}",
        Code.HEAD_ON_SPOT,
        "      InstanceMarketOptions: {MarketType: spot}",
    ),
    broken(AWS, "m7i.xlarge", "c7i.large", Code.HEAD_SMALL, "    node_config:"),
    broken(KUBE, ', nvidia.com/gpu: "1"', "", Code.NO_GPU, 'limits: {cpu: "8", memory: 32Gi}'),
    broken(KUBE, "maxReplicas: 4", "maxReplicas: 3", Code.TOO_FEW_WORKERS),
    broken(KUBE, 'num-cpus: "0"', 'num-cpus: "4"', Code.HEAD_TAKES_ARMS),
    broken(
        KUBE,
        'limits: {cpu: "4", memory: 16Gi}',
        'limits: {cpu: "4"}',
        Code.RESOURCES_MISSING,
        "              resources:",
    ),
    broken(
        KUBE, 'limits: {cpu: "4", memory: 16Gi}', 'limits: {cpu: "4", memory: 2Gi}', Code.HEAD_SMALL
    ),
    broken(
        KUBE,
        "          securityContext: &user",
        "          nodeSelector: {capacityType: SPOT}\n          securityContext: &user",
        Code.HEAD_ON_SPOT,
    ),
    broken(KUBE, "rayStartParams: {}", 'rayStartParams: {num-gpus: "2"}', Code.RESOURCES_WRONG),
    # versions
    broken(
        AWS,
        "'ray[default,tune,train]==2.60.0'",
        "'ray[default,tune,train]==2.59.0'",
        Code.RAY_VERSION,
    ),
    broken(AWS, "'ray[default,tune,train]==2.60.0'", "'ray[default,tune,train]'", Code.RAY_VERSION),
    broken(
        LOCAL,
        "--python 3.11 ~/venv",
        "--python 3.10 ~/venv",
        Code.PYTHON_VERSION,
        "- test -x ~/venv",
    ),
    broken(
        AWS, "    ImageId: ami-0123456789abcdef0", "    ImageId: latest_dlami", Code.IMAGE_DEFAULT
    ),
    broken(
        KUBE,
        HEAD_IMAGE,
        f"{HEAD_POD}image: rayproject/ray:nightly-py311",
        Code.RAY_NIGHTLY,
        "image: rayproject/ray:nightly-py311",
    ),
    broken(
        KUBE,
        HEAD_IMAGE,
        f"{HEAD_POD}image: rayproject/ray:2.9.0-py311",
        Code.RAY_VERSION,
        "image: rayproject/ray:2.9.0-py311",
    ),
    broken(
        KUBE,
        HEAD_IMAGE,
        f"{HEAD_POD}image: rayproject/ray:2.60.0-py310",
        Code.PYTHON_VERSION,
        "image: rayproject/ray:2.60.0-py310",
    ),
    broken(KUBE, "rayVersion: '2.60.0'", "rayVersion: '2.9.0'", Code.RAY_VERSION),
    # doors
    broken(
        AWS, "SecurityGroupIds: [sg-0123456789abcdef0]", "SecurityGroupIds: []", Code.OPEN_INGRESS
    ),
    broken(
        AWS,
        "  cache_stopped_nodes: false",
        "  security_group: {GroupName: mine}",
        Code.OPEN_INGRESS,
    ),
    broken(
        AWS, "--cidr FILL_IN", "--cidr 0.0.0.0/0 FILL_IN", Code.OPEN_INGRESS, "--cidr 0.0.0.0/0"
    ),
    broken(AWS, "HttpTokens: required", "HttpTokens: optional", Code.METADATA_OPEN),
    broken(AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", Code.DASHBOARD_OPEN),
    broken(KUBE, "serviceType: ClusterIP", "serviceType: LoadBalancer", Code.OPEN_INGRESS),
    broken(KUBE, "      serviceType: ClusterIP", "      enableIngress: true", Code.OPEN_INGRESS),
    # the token
    broken(AWS, HEAD_START, HEAD_START.removeprefix("RAY_AUTH_MODE=token "), Code.TOKEN_MISSING),
    broken(
        AWS,
        "  /home/ubuntu/.ray/auth_token: ~/.ray/auth_token\n",
        "",
        Code.TOKEN_MISSING,
        "file_mounts:",
    ),
    broken(AWS, "RAY_AUTH_MODE=token\\n", "RAY_AUTH_TOKEN=s3cret\\n", Code.TOKEN_EXPOSED),
    broken(
        LOCAL,
        "  - chmod 700 ~/.ray &&",
        "  - cat ~/.ray/auth_token && chmod 700 ~/.ray &&",
        Code.TOKEN_EXPOSED,
    ),
    broken(
        KUBE, "    authOptions:\n      mode: token\n", "", Code.TOKEN_MISSING, "  rayClusterSpec:"
    ),
    broken(
        KUBE,
        HEAD_IMAGE,
        f"{HEAD_IMAGE}\n              env: [{{name: RAY_AUTH_TOKEN, value: s3cret}}]",
        Code.TOKEN_EXPOSED,
        "env: [{name: RAY",
    ),
    # files
    broken(AWS, "lvm-triage/lvm: lvm", "lvm-triage/lvm: lwm", Code.MOUNT_MISSING),
    broken(AWS, "lvm-triage/tune_jobs: tune_jobs", "lvm-triage/tune_jobs: ..", Code.MOUNT_OUTSIDE),
    broken(
        AWS,
        "  /home/ubuntu/lvm-triage/tune_jobs: tune_jobs\n",
        "",
        Code.MOUNT_MISSING,
        "file_mounts:",
    ),
    broken(
        AWS,
        "/home/ubuntu/lvm-triage/",
        "/home/ubuntu/lvm/",
        Code.MOUNT_SHADOWS,
        "  /home/ubuntu/lvm/pyproject.toml",
    ),
    broken(
        AWS,
        "fs-0123456789abcdef0.efs.us-west-2.amazonaws.com:/ /shared",
        "/dev/nvme1n1 /shared",
        Code.STORAGE,
    ),
    broken(AWS, "sudo mount -t nfs4", "true", Code.STORAGE, "setup_commands:"),
    broken(AWS, "--out /shared/runs/first", "--out /home/ubuntu/runs/first", Code.STORAGE),
    broken(
        LOCAL,
        "  - mountpoint -q /shared ||",
        "  - test -d /shared ||",
        Code.STORAGE,
        "setup_commands:",
    ),
    broken(KUBE, "accessModes: [ReadWriteMany]", "accessModes: [ReadWriteOnce]", Code.STORAGE),
    broken(
        KUBE,
        "persistentVolumeClaim: {claimName: lvm-triage}",
        "emptyDir: {}",
        Code.STORAGE,
        "          volumes:",
    ),
    broken(KUBE, "run=/shared/runs/first", "run=/tmp/runs/first", Code.STORAGE),
    # commands
    broken(
        AWS,
        "(mountpoint -q /shared ||",
        "(mountpoint -q /shared || (",
        Code.COMMAND_SYNTAX,
        "  - >-\n    sudo mkdir -p /shared",
    ),
    broken(
        AWS, "--autoscaling-config=~/ray_bootstrap_config.yaml ", "", Code.START_COMMAND, HEAD_START
    ),
    broken(
        AWS,
        "/constraints.txt boto3",
        "/constraints.txt botox",
        Code.START_COMMAND,
        "head_setup_commands:",
    ),
    broken(LOCAL, "--address=$RAY_HEAD_IP:6379", "--address=10.0.0.9:6379", Code.START_COMMAND),
    broken(
        KUBE,
        "  entrypoint: bash /etc/lvm/triage.sh",
        "  entrypoint: bash /etc/lvm/triage.sh\n  backoffLimit: 0\n  x-: 1",
        Code.YAML_DUPLICATE,
        "  backoffLimit: 3",
    ),
    broken(KUBE, "      1|3) echo", "      3) echo", Code.JOB_RETRY, "  backoffLimit: 3"),
    broken(KUBE, '--resume "$run"', '--out "$run"', Code.JOB_RETRY, "  backoffLimit: 3"),
    broken(KUBE, "--address auto ", "", Code.JOB_COMMAND, "triage.py --resume"),
    broken(
        KUBE, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", Code.NODES_STAY
    ),
    broken(
        AWS,
        "  region: us-west-2\n",
        "  region: us-east-1\n",
        Code.ZONE_WRONG,
        "  availability_zone:",
    ),
]

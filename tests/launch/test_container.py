"""The Dockerfile and launch/gke_jobset.yaml, by the names of their instructions and fields."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from uda_jax.cli.main import parsed

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# The fields of the kinds that the file uses, from JobSet's API v1alpha2 and Kubernetes' batch/v1 and core/v1. A field's
# value is text, a number, another kind, [a kind] for a list of it, or {} for names that the user chooses.
TEXT, NUMBER, FLAG = str, int, bool
KINDS = {
    "JobSet": {"apiVersion": TEXT, "kind": TEXT, "metadata": "Metadata", "spec": "JobSetSpec"},
    "Metadata": {"name": TEXT, "namespace": TEXT, "labels": {}, "annotations": {}},
    "JobSetSpec": {
        "replicatedJobs": ["ReplicatedJob"],
        "network": "Network",
        "successPolicy": "SuccessPolicy",
        "failurePolicy": "FailurePolicy",
        "suspend": FLAG,
        "coordinator": "Coordinator",
        "managedBy": TEXT,
        "ttlSecondsAfterFinished": NUMBER,
    },
    "ReplicatedJob": {"name": TEXT, "groupName": TEXT, "template": "JobTemplate", "replicas": NUMBER},
    "Network": {"enableDNSHostnames": FLAG, "subdomain": TEXT, "publishNotReadyAddresses": FLAG},
    "SuccessPolicy": {"operator": TEXT, "targetReplicatedJobs": [TEXT]},
    "FailurePolicy": {"maxRestarts": NUMBER, "restartStrategy": TEXT, "rules": ["FailurePolicyRule"]},
    "FailurePolicyRule": {
        "name": TEXT,
        "action": ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
        "onJobFailureReasons": [TEXT],
        "onJobFailureMessagePatterns": [TEXT],
        "targetReplicatedJobs": [TEXT],
    },
    "Coordinator": {"replicatedJob": TEXT, "jobIndex": NUMBER, "podIndex": NUMBER},
    "JobTemplate": {"metadata": "Metadata", "spec": "JobSpec"},
    "JobSpec": {
        "parallelism": NUMBER,
        "completions": NUMBER,
        "completionMode": ("Indexed", "NonIndexed"),
        "backoffLimit": NUMBER,
        "backoffLimitPerIndex": NUMBER,
        "maxFailedIndexes": NUMBER,
        "activeDeadlineSeconds": NUMBER,
        "ttlSecondsAfterFinished": NUMBER,
        "podFailurePolicy": "PodFailurePolicy",
        "podReplacementPolicy": TEXT,
        "suspend": FLAG,
        "template": "PodTemplate",
    },
    "PodFailurePolicy": {"rules": ["PodFailurePolicyRule"]},
    "PodFailurePolicyRule": {
        "action": ("FailJob", "FailIndex", "Ignore", "Count"),
        "onExitCodes": "OnExitCodes",
        "onPodConditions": ["OnPodCondition"],
    },
    "OnExitCodes": {"containerName": TEXT, "operator": ("In", "NotIn"), "values": [NUMBER]},
    "OnPodCondition": {"type": TEXT, "status": ("True", "False", "Unknown")},
    "PodTemplate": {"metadata": "Metadata", "spec": "PodSpec"},
    "PodSpec": {
        "containers": ["Container"],
        "initContainers": ["Container"],
        "volumes": ["Volume"],
        "restartPolicy": ("Never", "OnFailure"),
        "terminationGracePeriodSeconds": NUMBER,
        "nodeSelector": {},
        "serviceAccountName": TEXT,
        "securityContext": "PodSecurityContext",
        "hostNetwork": FLAG,
        "dnsPolicy": TEXT,
        "priorityClassName": TEXT,
    },
    "PodSecurityContext": {"runAsNonRoot": FLAG, "runAsUser": NUMBER, "runAsGroup": NUMBER, "fsGroup": NUMBER},
    "Container": {
        "name": TEXT,
        "image": TEXT,
        "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
        "command": [TEXT],
        "args": [TEXT],
        "workingDir": TEXT,
        "env": ["EnvVar"],
        "ports": ["ContainerPort"],
        "resources": "Resources",
        "volumeMounts": ["VolumeMount"],
    },
    "EnvVar": {"name": TEXT, "value": TEXT, "valueFrom": "EnvVarSource"},
    "EnvVarSource": {"fieldRef": "FieldRef"},
    "FieldRef": {"apiVersion": TEXT, "fieldPath": TEXT},
    "ContainerPort": {"name": TEXT, "containerPort": NUMBER, "protocol": TEXT},
    "Resources": {"requests": {}, "limits": {}},
    "VolumeMount": {"name": TEXT, "mountPath": TEXT, "subPath": TEXT, "readOnly": FLAG},
    "Volume": {"name": TEXT, "persistentVolumeClaim": "ClaimSource", "emptyDir": "EmptyDir"},
    "ClaimSource": {"claimName": TEXT, "readOnly": FLAG},
    "EmptyDir": {"medium": ("", "Memory"), "sizeLimit": TEXT},
}
# What JAX and XLA read, and what this library does; the others must be taken by the arguments.
READ = {"JAX_PLATFORMS", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_FLAGS", "UDA_JAX_CACHE"}


def wrong(value, kind, where):
    """Returns what in a value does not belong to its kind, as lines."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, found {value!r}"]
        return [line for n, item in enumerate(value) for line in wrong(item, kind[0], f"{where}[{n}]")]
    if isinstance(kind, tuple):
        return [] if value in kind else [f"{where}: expected one of {kind}, found {value!r}"]
    if isinstance(kind, type):
        return [] if type(value) is kind else [f"{where}: expected {kind.__name__}, found {value!r}"]
    if not isinstance(value, dict):
        return [f"{where}: expected a mapping, found {value!r}"]
    if kind == {}:
        return []
    unknown = [f"{where}.{name}: unknown" for name in value if name not in KINDS[kind]]
    known = [(item, KINDS[kind][name], f"{where}.{name}") for name, item in value.items() if name in KINDS[kind]]
    return unknown + [line for item in known for line in wrong(*item)]


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())


def test_every_field_of_the_jobset_is_known(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert wrong(jobset, "JobSet", "") == []


def test_a_wrong_field_would_be_seen(jobset):
    changed = {**jobset, "spec": {**jobset["spec"], "replicatedJob": [], "suspend": "no"}}
    assert wrong(changed, "JobSet", "") == [".spec.replicatedJob: unknown", ".spec.suspend: expected bool, found 'no'"]


def test_the_pods_of_the_jobset_become_one_run(jobset):
    """With what Kubernetes puts in for variables, the arguments are those of a process of `uda train`."""
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert jobset["spec"]["coordinator"] == {"replicatedJob": workers["name"], "jobIndex": 0, "podIndex": 0}
    paths = {
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": "1",
        "metadata.annotations['jobset.sigs.k8s.io/coordinator']": "uda-workers-0-0.uda",
    }
    values = {
        each["name"]: each.get("value") or paths[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container["env"]
    }
    words = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in container["args"]]
    options = parsed(words)
    assert options.command == "train"
    assert options.coordinator == f"uda-workers-0-0.uda:{container['ports'][0]['containerPort']}"
    assert (options.num_processes, options.process_id) == (job["completions"], 1)
    exits = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert exits == [{"containerName": container["name"], "operator": "In", "values": [options.stopped_status]}]
    taken = {found for word in container["args"] for found in re.findall(r"\$\((\w+)\)", word)}
    assert set(values) == taken | (set(values) & READ)


def test_the_volumes_of_the_jobset_are_there_and_used(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    mounts = {mount["name"] for each in pod["containers"] + pod["initContainers"] for mount in each["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsUser"] == int(instructions()[-4][1])  # The image's own user.


def instructions():
    """Returns the instructions of the Dockerfile, in order: name and the rest, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_the_instructions_of_the_dockerfile_are_known():
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
    names = [name for name, _ in instructions()]
    assert set(names) <= known and names[:2] == ["ARG", "FROM"]
    assert instructions()[-4:] == [
        ("USER", "1000"),
        ("WORKDIR", "/home/uda"),
        ("ENTRYPOINT", '["uda"]'),
        ("CMD", '["--help"]'),
    ]


def test_everything_that_the_dockerfile_copies_is_there_and_sent_to_the_builder():
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignore
    stages = [rest.split(" AS ")[1] for name, rest in instructions() if name == "FROM" and " AS " in rest]
    sources = []
    for name, rest in instructions():
        words = shlex.split(rest) if name == "COPY" else []
        options = [word for word in words if word.startswith("--")]
        if options:
            assert options == [f"--from={stages[0]}"]
        else:
            sources += words[:-1]
    assert {"pyproject.toml", "uda_jax", "configs"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and f"!{source}" in ignore, source
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(sources)


def test_every_build_argument_is_used_where_it_is_declared():
    stages, declared = [[]], []
    for name, rest in instructions():
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest))
        if name == "ARG":
            declared.append((len(stages) - 1, *rest.split("=")))
    assert {name: value for _, name, value in declared} == {
        "PYTHON": "3.12",
        "EXTRAS": "export",
        "PINS": "constraints-newest.txt",
    }
    for stage, name, _ in declared:
        # An argument before the first stage is for the lines that begin stages.
        users = [rest for part in stages for word, rest in part if word == "FROM"] if stage == 0 else []
        users += [rest for word, rest in stages[stage] if stage and word != "ARG"]
        assert any(f"${{{name}}}" in rest for rest in users), name


@pytest.mark.parametrize("file", ["Dockerfile", "launch/README.md", "launch/gke_jobset.yaml"])
def test_the_extras_that_are_named_exist(file):
    named = re.findall(r"EXTRAS=([a-z0-9,]+)", (ROOT / file).read_text())
    assert named and set(",".join(named).split(",")) <= set(EXTRAS)


def test_the_extras_for_accelerators_leave_the_version_to_the_dependency():
    assert (EXTRAS["cuda"], EXTRAS["cuda12"], EXTRAS["tpu"]) == (["jax[cuda13]"], ["jax[cuda12]"], ["jax[tpu]"])


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-newest.txt"])
def test_constraints_pin_everything_that_the_project_names(file):
    lines = (ROOT / file).read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.]+", line) for line in lines)
    pinned = {re.sub("[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + EXTRAS["test"]
    names = {re.sub("[-_.]+", "-", re.match("[A-Za-z0-9._-]+", word)[0]).lower() for word in wanted}
    assert names <= pinned, names - pinned

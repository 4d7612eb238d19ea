"""launch/tpu_pod.sh against a stand-in for gcloud, which runs the hosts' commands in two folders."""

import pytest

WORDS = ["--config", "advent:streets", "--workdir", "gs://bucket/runs/a b"]
REACHED = "--config advent:streets --workdir gs://bucket/runs/a b --coordinator auto --stopped-status 75"


def verbs(stubs):
    """What was done to the queued resource and to the hosts, without the looks at them."""
    words = [call[3:5] for call in stubs.calls if call[:3] == ["gcloud", "compute", "tpus"]]
    return [verb for group, verb in words if verb in ("create", "delete", "scp")]


def act(stubs, *words, states, ends=(), **settings):
    stubs.says("states", *states)
    stubs.says("ends", *ends)
    if "ACTIVE" in states:
        for host in ("host0", "host1"):
            (stubs.folder / host / ".local" / "bin").mkdir(parents=True)
            (stubs.folder / host / ".local" / "bin" / "uv").write_bytes((stubs.folder / "uv").read_bytes())
            (stubs.folder / host / ".local" / "bin" / "uv").chmod(0o755)
    return stubs.run("tpu_pod.sh", *words, POLL="0", **settings)


def test_run_goes_from_the_request_to_the_deletion(stubs):
    done = act(stubs, "run", *WORDS, states=["ABSENT"], ends=["0"], DATA="gs://bucket/prepared")
    assert done.returncode == 0, done.stderr
    assert f"trains on host0 with tpu,cpu: train {REACHED}" in done.stdout
    assert verbs(stubs) == ["create", "scp", "delete"]
    assert "the run is finished" in done.stderr and "WAITING_FOR_RESOURCES, looking again" in done.stderr
    (create,) = [call for call in stubs.calls if "create" in call]
    assert create[5:] == [
        *("uda", "--node-id=uda", "--zone=europe-west4-b", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    copies = [call for call in stubs.calls if call[1:3] == ["storage", "rsync"]]
    assert copies == [["gcloud", "storage", "rsync", "--recursive", "gs://bucket/prepared", "data"]] * 2


def test_every_host_is_installed_and_started(stubs):
    done = act(stubs, "run", *WORDS, states=["ACTIVE"], ends=["0"], KEEP="true")
    assert done.returncode == 0 and "is kept, and billed until" in done.stderr, done.stderr
    assert verbs(stubs) == ["scp"]
    for host in ("host0", "host1"):
        assert (stubs.folder / host / "uda_jax" / "pyproject.toml").exists()
        assert f"trains on {host} with tpu,cpu: train {REACHED}" in (stubs.folder / host / "uda.log").read_text()


@pytest.mark.parametrize(
    ("ends", "expected", "words"),
    [
        (["75", "0"], ["scp", "scp", "delete"], "stopped by SIGTERM; it goes on"),
        (["SUSPENDED", "0"], ["scp", "delete", "create", "scp", "delete"], "preempted; asking for another one"),
    ],
    ids=["stopped", "preempted"],
)
def test_what_was_interrupted_goes_on(stubs, ends, expected, words):
    done = act(stubs, "run", *WORDS, states=["ACTIVE"], ends=ends)
    assert done.returncode == 0, done.stderr
    assert verbs(stubs) == expected and words in done.stderr


def test_a_failed_run_shows_its_log_and_is_not_begun_again(stubs):
    done = act(stubs, "run", *WORDS, states=["ACTIVE"], ends=["2"])
    assert done.returncode == 1 and "the run failed (status 2)" in done.stderr
    assert "trains on host1" in done.stdout and verbs(stubs) == ["scp", "delete"]


def test_a_slice_that_somebody_deletes_is_not_asked_for_again(stubs):
    done = act(stubs, "run", *WORDS, states=["ACTIVE"], ends=["ABSENT"])
    assert done.returncode == 1 and "the slice was deleted; nothing goes on" in done.stderr
    assert verbs(stubs) == ["scp"]


def test_run_gives_up_on_hosts_where_nothing_can_be_installed(stubs):
    stubs.says("no_uv")
    done = act(stubs, "run", *WORDS, states=["ACTIVE"])
    assert done.returncode == 1 and "giving up after 5 failures" in done.stderr
    assert verbs(stubs) == ["scp"] * 5 + ["delete"]


@pytest.mark.parametrize(
    ("states", "expected", "status"),
    [
        (["ACTIVE"], [], 0),
        (["PROVISIONING", "ACTIVE"], [], 0),
        (["FAILED"], ["delete", "create"], 0),
        (["SUSPENDING", "SUSPENDED"], ["delete", "create"], 0),
        (["DENIED"], [], 1),
    ],
    ids=lambda value: "-".join(value).lower() if isinstance(value, list) else str(value),
)
def test_create_uses_what_is_there(stubs, states, expected, status):
    done = act(stubs, "create", states=states)
    assert done.returncode == status and verbs(stubs) == expected, done.stderr


def test_a_request_that_fails_is_not_made_again(stubs):
    stubs.says("refuses")
    done = act(stubs, "create", states=["ABSENT"])
    assert done.returncode == 1 and "the request failed" in done.stderr and verbs(stubs) == ["create"]


def test_a_run_that_goes_on_is_left_alone(stubs):
    act(stubs, "create", states=["ACTIVE"])
    (stubs.folder / "host0" / "uda.pid").write_text("1\n")  # A process that is always there.
    done = stubs.run("tpu_pod.sh", "start", *WORDS, POLL="0")
    assert done.returncode == 0 and "it runs already" in done.stderr
    assert not (stubs.folder / "host1" / "uda.pid").exists()


def test_a_dry_run_prints_the_commands_and_runs_none(stubs):
    done = stubs.run("tpu_pod.sh", "--dry-run", "run", *WORDS, DATA="gs://bucket/prepared", TIER="")
    lines = [line for line in done.stdout.splitlines() if line]
    assert done.returncode == 0 and not stubs.calls
    starts = ["create", "git", "scp", "ssh", "ssh", "ssh", "ssh", "delete"]
    assert [next(word for word in line.split() if word in starts) for line in lines] == starts
    assert "--spot" not in done.stdout


@pytest.mark.parametrize("words", [[], ["run"], ["start"], ["destroy"]])
def test_wrong_words_end_in_one_line(stubs, words):
    done = stubs.run("tpu_pod.sh", *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not stubs.calls

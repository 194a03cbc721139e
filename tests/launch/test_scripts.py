"""The scripts and the manifest for clusters: they parse, and say the same as the command line."""

import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from vdu_jax import cli

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")])
JOBSET = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_clean(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    checker = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([str(checker), str(script)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    usage = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage:" in usage.stderr


def run_with(script, tmp_path, tool, *arguments, **env):
    """What the script gives to a command of its cluster, which this puts in its place."""
    fake = tmp_path / tool
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\nexit "${CODE:-0}"\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | env
    done = subprocess.run(
        ["bash", str(LAUNCH / script), *arguments], capture_output=True, text=True, env=env
    )
    return done.returncode, done.stdout.splitlines()


def test_slurm_starts_a_process_a_task_and_requeues_what_was_stopped(tmp_path):
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    (tmp_path / "scontrol").chmod(0o755)
    for code, last in ((0, "--coordinator=auto"), (143, "scontrol requeue 7"), (2, "--coord")):
        found, lines = run_with(
            "slurm.sh", tmp_path, "srun", "train", "--workdir=a b", VENV="/v", CODE=str(code),
            SLURM_JOB_ID="7",
        )  # fmt: skip
        assert found == code and lines[-1].startswith(last)
        start = ["--kill-on-bad-exit=1", "/v/bin/vdu", "train", "--workdir=a b"]
        assert lines[:5] == [*start, "--coordinator=auto"]


def test_a_tpu_host_gets_the_arguments_as_they_were(tmp_path):
    given = ["run", "--config=x.py", "--config.forget.classes=(3,)", "--workdir=/a b"]
    code, lines = run_with("tpu_pod.sh", tmp_path, "gcloud", *given, FOLDER="/shared/my vdu")
    assert code == 0 and "--worker=all" in lines
    (command,) = (line for line in lines if line.startswith("--command="))
    words = shlex.split(command.removeprefix("--command="))
    assert words[:4] == ["cd", "/shared/my vdu", "&&", "exec"]
    assert words[4:] == [".venv/bin/vdu", *given, "--coordinator=auto"]


def test_the_manifest_is_a_job_for_each_process():
    assert JOBSET["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and JOBSET["kind"] == "JobSet"
    (job,) = JOBSET["spec"]["replicatedJobs"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}} | job["template"]
    kubernetes_validate.validate(whole, "1.31", strict=True)
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {row["name"]: row.get("value", "3") for row in container["env"]}
    assert spec["completions"] == spec["parallelism"] == int(env["PROCESSES"])
    name = JOBSET["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert env["COORDINATOR"] == f"{name}-{job['name']}-0-0.{name}:{port}"
    program, stage, *flags = container["command"]
    for key, value in env.items():
        flags = [flag.replace(f"$({key})", value) for flag in flags]
    values, _ = cli.parse(flags, stage)
    assert program == "vdu" and (values.process, values.processes) == (3, 4)
    assert values.coordinator == env["COORDINATOR"]

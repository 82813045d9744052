"""The files of .github/CLUSTER.md and the Dockerfile: what of them can be checked without a cluster."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from nas.cli import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / ".github" / "CLUSTER.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / ".github" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def block(language):
    """The page's one block of this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return found


def parse(command):
    """Parse a command that ends in one of `nas`; a shell's variables are numbers."""
    words = shlex.split(re.sub(r'"?\$\w+"?', "1", command))
    name, *arguments = words[words.index("nas") + 1 :]
    typer.main.get_command(app).commands[name].make_context(name, arguments, resilient_parsing=False)


def test_the_slurm_script_is_one():
    script = block("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    options = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in options)
    joined = script.replace("\\\n", " ")
    commands = [line for line in joined.splitlines() if re.search(r"\bnas [a-z]", line)]
    assert commands
    for command in commands:
        parse(command)


@pytest.fixture
def job():
    return yaml.safe_load(block("yaml"))


def test_the_kubernetes_job_has_the_fields_of_a_ray_job(job):
    assert (job["apiVersion"], job["kind"], set(job)) == (
        "ray.io/v1", "RayJob", {"apiVersion", "kind", "metadata", "spec"},
    )  # fmt: skip
    assert set(job["spec"]) <= {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"}
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    parse(job["spec"]["entrypoint"])


def test_each_pod_of_the_kubernetes_job_has_its_volumes_and_one_image(job):
    cluster = job["spec"]["rayClusterSpec"]
    images = set()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            assert all(isinstance(each["value"], str) for each in container.get("env", ()))
            images.add(container["image"])
    assert len(images) == 1


def test_the_dockerfile_copies_what_the_package_is_built_from():
    copied = {word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project, wheel = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) <= copied


def test_every_extra_of_the_pages_is_one():
    extras = set(PROJECT["project"]["optional-dependencies"])
    named = re.findall(r"(?:EXTRAS='?|install '\.)\[([a-z0-9,]+)\]", PAGE + DOCKERFILE)
    assert named
    assert {extra for each in named for extra in each.split(",")} <= extras

"""The examples under deploy/: their own shells expand them, the commands' own parsers read them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from torch.distributed.run import parse_args

from conftest import save
from synergic.batch import plan_jobs
from synergic.cli import command, parse_changes, parse_shard
from synergic.train import check_parts, read_recipe

DEPLOY = Path(__file__).parents[1] / "deploy"
SHARDS = 8


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Runs a script in an empty folder, with commands that write down their arguments in place of the real ones;
    returns these arguments."""
    for name in ("synergic", "srun", "scontrol"):
        told = "import json, sys; print('node-1'); open('arguments', 'w').write(json.dumps(sys.argv[1:]))"
        (tmp_path / name).write_text(f"#!{sys.executable}\n{told}\n")
        (tmp_path / name).chmod(0o755)

    def run(*script: object, **environment: object) -> list[str]:
        values = {key: str(value) for key, value in environment.items()}
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        subprocess.run(list(map(str, script)), check=True, cwd=tmp_path, env={"PATH": path} | values)
        return json.loads((tmp_path / "arguments").read_text())

    return run


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command would be called with. Raises for an option that it does not know."""
    name, *rest = arguments
    return command.commands[name].make_context(name, rest, parent=click.Context(command)).params


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures in three folders."""
    for i in range(20):
        save(tmp_path / "in" / f"{i % 3}" / f"{i}.png", np.zeros((1, 1, 1), np.uint8))
    return tmp_path / "in"


def every_file_once(folder: Path, calls: list[dict[str, Any]]) -> bool:
    """Do the shards of all calls hold every file of the folder, once?"""
    assert all(call["resume"] and not call["overwrite"] for call in calls)
    jobs = [plan_jobs([folder], folder.parent / "out", parse_shard(call["shard"])) for call in calls]
    return sorted(job.source for shard in jobs for job in shard) == sorted(folder.rglob("*.png"))


def test_a_slurm_array_restores_every_file_once(folder: Path, shell: Any) -> None:
    script = DEPLOY / "restore-array.sbatch"
    tasks = re.search(r"^#SBATCH --array=1-(\d+)$", script.read_text(), re.MULTILINE)
    assert tasks is not None and int(tasks[1]) == SHARDS
    calls = [parsed(shell("bash", script, SLURM_ARRAY_TASK_ID=i)) for i in range(1, SHARDS + 1)]
    assert every_file_once(folder, calls)
    assert not every_file_once(folder, calls[1:])


def test_a_kubernetes_job_restores_every_file_once(folder: Path, shell: Any) -> None:
    job = yaml.safe_load((DEPLOY / "restore-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert job["spec"]["completions"] == SHARDS
    (container,) = job["spec"]["template"]["spec"]["containers"]
    script = [*container["command"], *container["args"]]
    calls = [parsed(shell(*script, JOB_COMPLETION_INDEX=i)) for i in range(SHARDS)]
    assert every_file_once(folder, calls)
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert all(volume["name"] == mount["name"] for mount in container["volumeMounts"])
    assert all(str(path).startswith("/pictures/") for call in calls for path in (*call["inputs"], call["output"]))


def test_the_training_job_starts_torchrun_with_a_real_command(tmp_path: Path, shell: Any) -> None:
    script = DEPLOY / "train.sbatch"
    slurm = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_ID": 7, "SLURM_CPUS_PER_TASK": 16}
    cores, torchrun, *arguments = shell("bash", script, **slurm)
    assert (cores, torchrun) == ("--cpus-per-task=16", "torchrun"), "srun takes no cores from the job since Slurm 22.05"
    launch = parse_args(arguments)
    assert (launch.module, launch.training_script, launch.rdzv_endpoint) == (True, "synergic", "node-1:29500")
    nodes, gpus = (re.search(rf"--{key}=(\d+)", script.read_text()) for key in ("nodes", "gpus-per-node"))
    assert nodes is not None and gpus is not None
    assert (launch.nnodes, launch.nproc_per_node) == (nodes[1], gpus[1])
    call = parsed(launch.training_script_args)
    recipe = read_recipe(DEPLOY.parent / call["recipe"], parse_changes(call["changes"]))
    check_parts(recipe, int(nodes[1]) * int(gpus[1]))
    assert not call["resume"]
    state = tmp_path / call["run"] / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.touch()
    assert "--resume" in shell("bash", script, **slurm)

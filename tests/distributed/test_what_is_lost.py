"""Trainings that lose a node, after a notice or without, or Ray's controller: they end like those that lost nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mars_dist.distributed.console import MOST_STARTS
from mars_dist.errors import TrainingFailed
from mars_dist.launch import fit
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from .kills import kill_once, processes, require_all_cpus_free


def require_same_losses(found: Plan, expected: Plan) -> None:
    of_found, of_expected = (
        [line["loss"] for line in read_metrics(Path(plan.folder), "train")] for plan in (found, expected)
    )
    assert len(of_expected) == 60
    np.testing.assert_allclose(of_found, of_expected, rtol=1e-3)


def take_a_node_away(plan: Plan, num_nodes: int, least: int, how: str) -> dict[str, Any]:
    """Train while that is done; what the script saw."""
    script = Path(__file__).with_name("nodes.py")
    words = [sys.executable, script, json.dumps(plan.to_plain()), num_nodes, least, how]
    ended = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert found["lines"][-1] == f"{plan.folder}: finished"
    return found


@pytest.mark.cluster
@pytest.mark.parametrize(("num_nodes", "least"), [(2, 1), (3, 2)])
def test_a_lost_node(undisturbed: Plan, num_nodes: int, least: int, tmp_path: Path) -> None:
    plan = replace(undisturbed, folder=tmp_path / "run")
    assert take_a_node_away(plan, num_nodes, least, "loss")["seconds"] > 0
    require_same_losses(plan, undisturbed)


@pytest.mark.cluster
def test_a_notice_that_a_node_will_be_taken_away(tokenizer_plan: Plan, tmp_path: Path) -> None:
    """A checkpoint at once, though none was due; training goes on with it on the node to spare, to the last bit."""
    train = replace(tokenizer_plan.config.train, steps=1000, checkpoint_every=250)
    config = replace(tokenizer_plan.config, train=train)
    undisturbed, plan = (replace(tokenizer_plan, config=config, folder=tmp_path / name) for name in ("one", "two"))
    take_a_node_away(undisturbed, 3, 2, "nothing")
    found = take_a_node_away(plan, 3, 2, "notice")
    assert found["saved"] % 250
    [resumed] = [int(line.split("step ")[1].split(",")[0]) for line in found["lines"] if "resumed at step" in line]
    assert resumed >= found["saved"]
    of_found, of_undisturbed = (read_metrics(tmp_path / name, "train") for name in ("two", "one"))
    assert [line["loss"] for line in of_found] == [line["loss"] for line in of_undisturbed]


def test_workers_that_are_always_lost_before_anything_is_saved_are_given_up(
    tokenizer_plan: Plan, tmp_path: Path
) -> None:
    """As those that the kernel kills for their memory. The first starts are only counted."""
    train = replace(tokenizer_plan.config.train, steps=10_000, checkpoint_every=10_000, validate_every=10_000)
    plan = replace(tokenizer_plan, config=replace(tokenizer_plan.config, train=train), folder=tmp_path / "run")
    started = list[str]()

    def kill_at_first_steps(line: str) -> None:
        if " in float32 on " in line:
            started.append(line)
            if len(started) == 1:
                [name] = [name for name in ray.util.list_named_actors() if name.startswith("mars_console")]
                for _ in range(MOST_STARTS - 2):
                    ray.get(ray.get_actor(name).start.remote(2))
        elif line.split()[1:2] == ["1/10000"]:
            processes("RayTrainWorker")[-1].kill()

    told = rf"run: workers were started {MOST_STARTS} times and lost before anything was saved: have they the memory"
    with pytest.raises(TrainingFailed, match=told):
        fit(plan, 2, kill_at_first_steps)
    assert len(started) == 2


@pytest.mark.cluster
def test_a_lost_controller(undisturbed: Plan, tmp_path: Path) -> None:
    plan, said = replace(undisturbed, folder=tmp_path / "run"), list[str]()
    checkpoint = tmp_path / "run" / "training" / "step_00000010" / "position.json"
    kill_once(checkpoint.exists, "ray::TrainController")
    with pytest.raises(TrainingFailed, match="Ray's controller of the training was lost: the same command goes on"):
        fit(plan, 2, said.append)
    fit(plan, 2, said.append)
    assert any("resumed at step" in line for line in said)
    require_all_cpus_free()
    require_same_losses(plan, undisturbed)

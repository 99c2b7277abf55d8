"""Trainings that lose a node, or Ray's controller, by SIGKILL: they end like those that lost nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mars_dist.errors import TrainingFailed
from mars_dist.launch import fit
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from .kills import kill_once


def require_same_losses(found: Plan, expected: Plan) -> None:
    of_found, of_expected = (
        [line["loss"] for line in read_metrics(Path(plan.folder), "train")] for plan in (found, expected)
    )
    assert len(of_expected) == 60
    np.testing.assert_allclose(of_found, of_expected, rtol=1e-3)


@pytest.mark.cluster
@pytest.mark.parametrize(("num_nodes", "least"), [(2, 1), (3, 2)])
def test_a_lost_node(undisturbed: Plan, num_nodes: int, least: int, tmp_path: Path) -> None:
    plan = replace(undisturbed, folder=tmp_path / "run")
    script = Path(__file__).with_name("nodes.py")
    words = [sys.executable, script, json.dumps(plan.to_plain()), num_nodes, least]
    ended = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["lines"][-1] == f"{plan.folder}: finished" and found["seconds"] > 0
    require_same_losses(plan, undisturbed)


@pytest.mark.cluster
def test_a_lost_controller(undisturbed: Plan, tmp_path: Path) -> None:
    plan, said = replace(undisturbed, folder=tmp_path / "run"), list[str]()
    checkpoint = tmp_path / "run" / "training" / "step_00000010" / "position.json"
    kill_once(checkpoint.exists, "ray::TrainController")
    with pytest.raises(TrainingFailed, match="Ray's controller of the training was lost: the same command goes on"):
        fit(plan, 2, said.append)
    fit(plan, 2, said.append)
    assert any("resumed at step" in line for line in said)
    require_same_losses(plan, undisturbed)

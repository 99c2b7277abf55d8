"""Runs that are stopped, spoilt or damaged, without Ray: what goes on ends like an undisturbed run."""

import io
import json
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch

from mars_dist.config import TokenizerRunConfig
from mars_dist.dataset import DatasetInfo, write_shard
from mars_dist.errors import Stopped, TrainingFailed
from mars_dist.launch import fit
from mars_dist.progress import silent
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.training import watchdog as watchdogs
from mars_dist.training.checkpoint import checksum
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun
from mars_dist.training.safe_reading import Planner
from mars_dist.training.tokenizer_stage import TokenizerStage
from mars_dist.training.watchdog import watchdog

RunWorkers = Callable[..., list[int | None]]
State = Callable[[Plan], dict[str, torch.Tensor]]
TrainHere = Callable[[Plan], None]


def checkpoints(plan: Plan) -> list[str]:
    return sorted(path.name for path in (plan.folder / "training").glob("*step_*"))


def require_same_end(found: Plan, expected: Plan, final_state: State) -> None:
    of_found, of_expected = final_state(found), final_state(expected)
    assert of_found.keys() == of_expected.keys() and len(of_expected) > 30
    assert all(torch.equal(of_found[name], tensor) for name, tensor in of_expected.items())


# ---- a note that spoils everything


def with_a_bad_note(pictures: str, bad: str, folder: str | Path) -> None:
    """The same data set with a NaN in the picture of that note."""
    info = DatasetInfo.load(Folder.open(pictures))
    for shard in info.shards:
        rows = Rows(pictures, shard.split)
        [group] = [group for group in rows.groups if group.shard == shard.name]
        columns = rows.read_group(group, ["note_str", "picture"])
        columns["picture"] = np.where((columns["note_str"] == bad)[:, None, None, None], np.nan, columns["picture"])
        write_shard(Folder.open(folder), shard.name, {**columns, "picture": columns["picture"].astype(np.float16)}, {})
    info.save(Folder.open(folder))


def test_a_loss_that_is_not_finite_stops_all_before_the_weights_are_touched(
    tokenizer_plan: Plan, short_pictures: str, run_workers: RunWorkers, tmp_path: Path
) -> None:
    """The note comes in the second step, to one of two workers; a checkpoint follows each step."""
    config = tokenizer_plan.config
    assert isinstance(config, TokenizerRunConfig)
    config = replace(config, train=replace(config.train, checkpoint_every=1))
    plan = replace(tokenizer_plan, config=config, data=str(tmp_path / "bad"), folder=tmp_path / "run")
    batches = TokenizerStage(config, short_pictures, LocalRun(tmp_path)).batches
    mine = batches.names(step=1, rank=1, world_size=2)
    with_a_bad_note(short_pictures, mine[0], plan.data)

    assert run_workers(plan, 2) == [3, 3]
    told = [(plan.folder / f"failed-{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert told[0].startswith("tokenizer: not finite at step 1: on rank 1 l1 is nan, l2 is nan, ")
    assert f"(notes: {', '.join(mine)}): look at these notes" in told[0] and "rank 0" not in told[0]
    assert checkpoints(plan) == ["step_00000001"] and len(read_metrics(plan.folder, "train")) == 1


def test_a_damaged_shard_ends_training_by_its_name(tokenizer_plan: Plan, short_pictures: str, tmp_path: Path) -> None:
    shutil.copytree(short_pictures, tmp_path / "damaged")
    flip(tmp_path / "damaged" / "train-00000.parquet")
    plan = replace(tokenizer_plan, data=str(tmp_path / "damaged"), folder=tmp_path / "run")
    with pytest.raises(ValueError, match=r"damaged/train-00000\.parquet: cannot be read \(.*delete it and run the"):
        fit(plan, 0, silent)


# ---- SIGTERM


def test_two_workers_stop_after_the_same_step_and_go_on(
    tokenizer_plan: Plan, run_workers: RunWorkers, final_state: State, tmp_path: Path
) -> None:
    """One of them is told."""
    undisturbed, stopped = (replace(tokenizer_plan, folder=tmp_path / name) for name in ("undisturbed", "stopped"))
    assert run_workers(undisturbed, 2) == [0, 0]
    assert run_workers(stopped, 2, stop_at=6) == [0, 0]
    assert checkpoints(stopped) == ["step_00000007"] and len(read_metrics(stopped.folder, "train")) == 7
    assert run_workers(stopped, 2) == [0, 0]
    require_same_end(stopped, undisturbed, final_state)


def test_sigterm_saves_and_the_same_call_goes_on(trained_tokenizer: Plan, final_state: State, tmp_path: Path) -> None:
    plan = replace(trained_tokenizer, folder=tmp_path / "run")

    def terminate() -> None:
        while not (plan.folder / "metrics.jsonl").exists():
            sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    torch.set_num_threads(1)
    threading.Thread(target=terminate).start()
    with pytest.raises(Stopped, match=r"run: stopped by SIGTERM, saved at step \d+: the same command goes on"):
        fit(plan, 0, silent)
    assert len(checkpoints(plan)) == 1 and not plan.finished
    fit(plan, 0, silent)
    assert plan.finished
    require_same_end(plan, trained_tokenizer, final_state)


# ---- damaged checkpoints


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: flip(next(folder.glob("__0_*"))),
    "a file missing": lambda folder: next(folder.glob("__0_*")).unlink(),
    "half a file": lambda folder: os.truncate(next(folder.glob("__0_*")), 1000),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "no position": lambda folder: (folder / "position.json").unlink(),
    "another position": lambda folder: (folder / "position.json").write_text('{"workers": 1, "step": 3}'),
    "no position in it": lambda folder: (folder / "position.json").write_text("[]"),
    "no checksums": lambda folder: (folder / "checksums-0.json").unlink(),
    "damaged checksums": lambda folder: (folder / "checksums-0.json").write_text('{"__0_0.distcp": '),
}


@pytest.fixture(scope="module")
def broken_off(tokenizer_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Plan]:
    """Copies of a run that was stopped after 15 steps, with checkpoints of 10 and 15."""
    plan = replace(tokenizer_plan, folder=tmp_path_factory.mktemp("broken") / "run")
    run = LocalRun(plan.folder)
    calls = iter(range(100))
    wish = run.wish
    run.wish = lambda: (run.stop.set() if next(calls) == 14 else None, wish())[1]  # type: ignore[method-assign]
    torch.set_num_threads(1)
    assert plan.train(run).step == 15

    def copy(folder: Path) -> Plan:
        shutil.copytree(plan.folder, folder)
        return replace(plan, folder=folder)

    return copy


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(
    damage: str,
    broken_off: Callable[[Path], Plan],
    trained_tokenizer: Plan,
    train_here: TrainHere,
    final_state: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = broken_off(tmp_path / "run")
    assert checkpoints(plan) == ["step_00000010", "step_00000015"]
    DAMAGES[damage](plan.folder / "training" / "step_00000015")
    train_here(plan)
    said = capsys.readouterr().err
    what = "was never finished" if damage in ("no position", "no checksums") else "is damaged"
    assert f"checkpoint step_00000015 {what} (" in said and "resumed at step 10," in said
    assert checkpoints(plan) == ["damaged_step_00000015", "step_00000010", "step_00000020"]
    require_same_end(plan, trained_tokenizer, final_state)


def test_a_step_may_be_damaged_twice(tmp_path: Path) -> None:
    run, damaged = LocalRun(tmp_path), tmp_path / "training" / "step_00000010"
    for content in ("once", "again"):
        damaged.mkdir(parents=True)
        (damaged / "position.json").write_text(content)
        run.distrust(damaged.name)
    [kept] = (tmp_path / "training").iterdir()
    assert kept.name == "damaged_step_00000010" and (kept / "position.json").read_text() == "again"


def test_without_a_whole_checkpoint_nothing_is_begun_anew(broken_off: Callable[[Path], Plan], tmp_path: Path) -> None:
    plan = broken_off(tmp_path / "run")
    for name in checkpoints(plan):
        flip(plan.folder / "training" / name / "position.json")
    for _ in range(2):  # by the same command, given once more, neither
        with pytest.raises(TrainingFailed, match=r"no checkpoint in .*run is whole: delete it and start anew"):
            plan.train(LocalRun(plan.folder))
        assert checkpoints(plan) == ["step_00000010", "step_00000015"]


def test_where_no_checkpoint_was_ever_finished_it_begins_anew(
    broken_off: Callable[[Path], Plan],
    trained_tokenizer: Plan,
    train_here: TrainHere,
    final_state: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As where a worker was killed before it had sent its part of the first one."""
    plan = broken_off(tmp_path / "run")
    for name, missing in zip(checkpoints(plan), ("checksums-0.json", "position.json"), strict=True):
        (plan.folder / "training" / name / missing).unlink()
    train_here(plan)
    said = capsys.readouterr().err
    assert "step_00000010 was never finished (checksums-0.json is missing)" in said and "resumed" not in said
    require_same_end(plan, trained_tokenizer, final_state)


# ---- checkpoints that somebody else made


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.proof,)


def test_a_table_of_contents_that_would_run_code_is_damaged(
    broken_off: Callable[[Path], Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checksum is right."""
    plan, proof = broken_off(tmp_path / "run"), tmp_path / "proof"
    folder = plan.folder / "training" / "step_00000015"
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(proof)))
    checksums = json.loads((folder / "checksums-0.json").read_text())
    checksums[".metadata"] = checksum(folder / ".metadata")
    (folder / "checksums-0.json").write_text(json.dumps(checksums))
    assert plan.train(LocalRun(plan.folder)).step == 20
    assert not proof.exists()
    assert (
        "step_00000015 is damaged (cannot be read (.metadata names pathlib.Path.touch, which" in capsys.readouterr().err
    )


def test_a_number_that_would_run_code_is_refused(tmp_path: Path) -> None:
    proof, buffer = tmp_path / "proof", io.BytesIO()
    torch.save(Evil(proof), buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        Planner().load_bytes(None, buffer)  # type: ignore[arg-type]
    assert not proof.exists()


# ---- a step that hangs


def test_a_step_that_hangs_leaves_its_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdogs, "HANGS_AFTER", 0.2)
    stacks = tmp_path / "training" / "stacks-0.txt"
    with watchdog(LocalRun(tmp_path)) as step_done:
        for _ in range(6):  # longer than that in all
            sleep(0.05)
            step_done()
        assert not stacks.exists()
        hang_here()
        step_done()
    assert "in hang_here" in stacks.read_text()
    assert capsys.readouterr().err.count("no step has ended for 0 s: each worker's stacks are in") == 1


def hang_here() -> None:
    sleep(0.6)

"""What a run's folder remembers, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import pytest

from mars_dist import lease
from mars_dist.dataset import DatasetInfo
from mars_dist.errors import TrainingFailed
from mars_dist.storage import Folder
from mars_dist.training.plan import PLAN, Plan


@pytest.fixture
def plan(tokenizer_plan: Plan, tmp_path: Path) -> Plan:
    return replace(tokenizer_plan, folder=tmp_path / "run")


def with_optim(plan: Plan, **settings: float) -> Plan:
    return replace(plan, config=replace(plan.config, optim=replace(plan.config.optim, **settings)))


def with_train(plan: Plan, **settings: Any) -> Plan:
    return replace(plan, config=replace(plan.config, train=replace(plan.config.train, **settings)))


def keep_something(plan: Plan, what: str = "training/step_00000010/position.json") -> None:
    path = Path(str(plan.folder)) / what
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_plan_survives_the_way_to_a_worker(plan: Plan, autoregressor_plan: Plan, classifier_plan: Plan) -> None:
    for one in (plan, autoregressor_plan, classifier_plan):
        assert Plan.from_plain(one.to_plain()) == one


def begin(plan: Plan, workers: int = 1) -> None:
    plan.check(workers)
    with plan.held(lambda line: None, Event()):
        pass


def test_the_same_run_may_begin_again(plan: Plan) -> None:
    for workers in (1, 1, 2):
        begin(plan, workers)
    assert not plan.finished


SENT = ("model.safetensors", "tokenizer/model.safetensors", "training/step_00000010/__0_0.distcp")
"""What a run in S3 sends, and where to."""


@pytest.mark.parametrize("run", ["bucket/folder", "bucket"])
def test_what_broken_uploads_have_left_is_gone_once_a_run_begins(
    run: str, plan: Plan, bucket: str, s3_server: str
) -> None:
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    of_another = f"{run}/another/model.safetensors".removeprefix("bucket/")
    for file in SENT:
        client.create_multipart_upload(Bucket="bucket", Key=f"{run}/{file}".removeprefix("bucket/"))
    client.create_multipart_upload(Bucket="bucket", Key=of_another)
    begin(replace(plan, folder=bucket.replace("bucket/folder", run)))
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket="bucket")["Uploads"]] == [of_another]


def test_what_kills_have_left_on_a_disk_is_gone_once_a_run_begins(plan: Plan) -> None:
    half_written = [Path(str(plan.folder)) / Path(file).with_name(f".{Path(file).name}.1.part") for file in SENT]
    of_another = Path(str(plan.folder)) / "another" / ".model.safetensors.1.part"
    for path in (*half_written, of_another):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    begin(plan)
    assert not any(path.exists() for path in half_written) and of_another.exists()


def test_two_runs_at_once_are_refused(plan: Plan) -> None:
    with (
        plan.held(lambda line: None, Event()),
        pytest.raises(ValueError, match=r"training: another run writes here \(process \d+ on "),
    ):
        begin(plan)


def test_a_run_whose_folder_another_one_has_taken_over_stops(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a sleep of the machine."""
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.05)
    stop, another = Event(), replace(lease.Holder.here(), id="another").to_bytes()
    told = "another run has taken it over: this one has stopped"
    with pytest.raises(ValueError, match=told), plan.held(lambda line: None, stop):
        (Path(plan.training.name) / lease.LEASE).write_bytes(another)
        assert stop.wait(10)


def test_a_disk_that_is_full_loses_nothing_that_was_saved(plan: Plan) -> None:
    told = r"run: \[Errno 28\] No space left.*: what was saved is kept, and the same command"
    with pytest.raises(TrainingFailed, match=told), plan.held(lambda line: None, Event()):
        raise OSError(ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda plan: with_optim(plan, lr=0.5), r"optim\.lr = 0\.002, not 0\.5"),
        (lambda plan: with_train(plan, steps=30), r"train\.steps = 20, not 30"),
    ],
)
def test_another_run_in_its_folder_is_refused(plan: Plan, change: Callable[[Plan], Plan], difference: str) -> None:
    begin(plan)
    keep_something(plan)
    with pytest.raises(ValueError, match=rf"run: holds a run with {difference}: use its settings, or choose another"):
        change(plan).check(workers=1)


def test_a_run_that_has_kept_nothing_may_begin_anew_with_other_settings(plan: Plan) -> None:
    begin(plan)
    begin(with_optim(plan, lr=0.5))
    begin(plan)


@pytest.mark.parametrize(
    "kept", ["training/step_00000010/position.json", "training/finished.json", "model.safetensors"]
)
def test_what_is_kept_is_its_runs(plan: Plan, kept: str) -> None:
    begin(plan)
    keep_something(plan, kept)
    begin(plan)
    with pytest.raises(ValueError, match=r"holds a run with optim\.lr"):
        begin(with_optim(plan, lr=0.5))


def test_a_model_of_another_training_is_not_written_over(plan: Plan) -> None:
    """One that was handed on, without training/: where it lies nothing else is trained, nor is it trained further."""
    keep_something(plan, "model.safetensors")
    with pytest.raises(ValueError, match=r"run: holds a model that is not this run's: choose another --out"):
        begin(plan)


@pytest.mark.parametrize(
    "settings",
    [{"accumulate": 2}, {"replicas": 2}, {"recompute": "blocks"}, {"compile": True}, {"log_every": 3},
     {"checkpoint_every": 7}],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_a_run_goes_on_computed_and_told_in_another_way(plan: Plan, settings: dict[str, Any]) -> None:
    begin(plan, 2)
    keep_something(plan)
    begin(with_train(plan, **settings), 2)
    with_train(plan, **settings).mark_finished()
    assert plan.finished


def test_a_run_that_was_moved_goes_on(plan: Plan, tmp_path: Path) -> None:
    begin(plan)
    keep_something(plan)
    plan.mark_finished()
    Path(str(plan.folder)).rename(tmp_path / "moved")
    moved = replace(plan, folder=tmp_path / "moved")
    begin(moved)
    assert moved.finished
    with pytest.raises(ValueError, match=r"holds a run with optim\.lr"):
        begin(with_optim(moved, lr=0.5))


def test_a_run_whose_data_were_moved_goes_on(plan: Plan, short_pictures: str, tmp_path: Path) -> None:
    begin(plan)
    keep_something(plan)
    moved = replace(plan, data=str(shutil.copytree(short_pictures, tmp_path / "moved")))
    begin(moved)
    moved.mark_finished()
    assert plan.finished and moved.finished
    with pytest.raises(ValueError, match=r"holds a run with optim\.lr"):
        begin(with_optim(moved, lr=0.5))


def test_fine_tuning_of_a_model_that_was_moved_goes_on(plan: Plan, trained_tokenizer: Plan, tmp_path: Path) -> None:
    first = Path(shutil.copytree(str(trained_tokenizer.folder), tmp_path / "first"))
    plan = replace(plan, init_from=first)
    begin(plan)
    keep_something(plan)
    moved = replace(plan, init_from=first.rename(tmp_path / "moved"))
    begin(moved)
    moved.mark_finished()
    assert moved.finished
    other = replace(plan, init_from=Path(shutil.copytree(str(moved.init_from), tmp_path / "other")))
    with (tmp_path / "other" / "model.safetensors").open("ab") as weights:
        weights.write(b"0")
    with pytest.raises(ValueError, match=r"run: holds a run with init_from = \S+/moved, not \S+/other: use its"):
        begin(other)


def test_a_run_whose_codes_and_tokenizer_were_moved_goes_on(
    autoregressor_plan: Plan, short_codes: str, tmp_path: Path
) -> None:
    plan = replace(autoregressor_plan, folder=tmp_path / "run")
    begin(plan)
    keep_something(plan)
    copies = (shutil.copytree(path, tmp_path / Path(path).name) for path in (short_codes, str(plan.tokenizer)))
    data, tokenizer = copies
    begin(replace(plan, data=str(data), tokenizer=tokenizer))


def test_other_data_are_refused_at_the_same_place_too(plan: Plan, short_pictures: str, tmp_path: Path) -> None:
    plan = replace(plan, data=str(shutil.copytree(short_pictures, tmp_path / "data")))
    begin(plan)
    keep_something(plan)
    plan.mark_finished()
    other = replace(plan, data=str(shutil.copytree(short_pictures, tmp_path / "other")))
    for at in (plan, other):
        info = DatasetInfo.load(Folder.open(at.data))
        replace(info, shards=info.shards[:-1]).save(Folder.open(at.data))
    assert not plan.finished
    with pytest.raises(ValueError, match=r"run with data = \S+/data as it was then, not as it is now: use its"):
        begin(plan)
    with pytest.raises(ValueError, match=r"run with data = \S+/data, not \S+/other: use its"):
        begin(other)


def test_data_that_are_there_no_more_are_known_by_their_place(plan: Plan, short_pictures: str, tmp_path: Path) -> None:
    plan = replace(plan, data=str(shutil.copytree(short_pictures, tmp_path / "data")))
    plan.mark_finished()
    shutil.rmtree(plan.data)
    assert plan.finished
    assert not replace(plan, data=str(tmp_path / "elsewhere")).finished


def test_a_plan_that_says_nothing_of_its_data_goes_by_their_place(plan: Plan, tmp_path: Path) -> None:
    begin(plan)
    keep_something(plan)
    path = Path(plan.training.name) / "plan.json"
    noted = json.loads(path.read_text())
    del noted["dataset"]
    path.write_text(json.dumps(noted))
    plan.check(workers=1)
    before = plan.noted(PLAN)
    assert before is not None
    for another in (str(shutil.copytree(plan.data, tmp_path / "copy")), str(tmp_path / "nothing")):
        assert replace(plan, data=another).difference(before) == f"data = {plan.data}, not {another}"


@pytest.mark.parametrize("text", ["{}", "[]", '{"config": {}}', '{"config": {"tokenizer": 1}}', "{"])
def test_a_damaged_plan_is_told(plan: Plan, text: str) -> None:
    begin(plan)
    (Path(plan.training.name) / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"training/plan\.json: damaged"):
        plan.check(workers=1)


def test_finished_means_this_very_run(plan: Plan) -> None:
    plan.mark_finished()
    assert plan.finished
    assert not with_optim(plan, lr=0.5).finished


def test_each_worker_needs_a_row(plan: Plan, autoregressor_plan: Plan, classifier_plan: Plan, tmp_path: Path) -> None:
    others = (replace(other, folder=tmp_path / "other") for other in (autoregressor_plan, classifier_plan))
    for one in (plan, *others):
        one.check(workers=3)
        with pytest.raises(ValueError, match=r"train\.batch_size: 4 rows are too few for 5 workers"):
            one.check(workers=5)
        assert not one.folder.exists()


def test_a_folder_that_cannot_be_written_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/run/training: cannot be written .*choose another --out"):
        begin(replace(plan, folder=tmp_path / "file" / "run"))

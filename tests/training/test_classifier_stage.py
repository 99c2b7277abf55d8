"""Training the classifier, and its folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_dist.cmx import demultiplex
from mars_dist.config import ClassifierConfig, ClassifierRunConfig, SpectrogramConfig
from mars_dist.dataset import DatasetInfo
from mars_dist.model import load_classifier
from mars_dist.rows import Rows
from mars_dist.scales import Size
from mars_dist.serialize import read_json
from mars_dist.storage import Folder
from mars_dist.training.classifier_stage import ClassifierStage
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun


def with_config(plan: Plan, folder: Path, classifier: ClassifierConfig | None = None, **train: object) -> Plan:
    config = plan.config
    assert isinstance(config, ClassifierRunConfig)
    config = replace(config, classifier=classifier or config.classifier, train=replace(config.train, **train))
    return replace(plan, config=config, folder=folder)


def stage_of(plan: Plan) -> ClassifierStage:
    stage = plan.stage(LocalRun(plan.folder))
    assert isinstance(stage, ClassifierStage)
    return stage


@pytest.fixture
def info(short_pictures: str) -> DatasetInfo:
    return DatasetInfo.load(Folder.open(short_pictures))


def test_dataset_json_is_read_once_for_all_splits(classifier_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more shards there are, the longer that takes: by each worker, at each start."""
    loaded, load = list[str](), DatasetInfo.load
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: loaded.append(folder.name) or load(folder))
    stage_of(classifier_plan)
    assert loaded == [classifier_plan.data]


def with_splits(data: str, folder: Path, *splits: str) -> str:
    """A data set whose splits are all the same 8 notes."""
    shutil.copytree(data, folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    shard = next(shard for shard in manifest["shards"] if shard["split"] == "train")
    manifest["shards"] = [shard | {"split": split} for split in splits]
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return str(folder)


def test_its_folder_has_its_accuracy_on_held_out_notes(
    classifier_plan: Plan, train_here: Callable[[Plan], None], info: DatasetInfo, tmp_path: Path
) -> None:
    """The same as the loaded classifier has on whole pictures."""
    data = with_splits(classifier_plan.data, tmp_path / "data", "train", "valid", "test")
    settings = ClassifierConfig(frames=4, width=8, transpose=0)
    every = dict.fromkeys(("steps", "log_every", "validate_every", "checkpoint_every"), 80)
    plan = with_config(classifier_plan, tmp_path / "run", settings, **every)
    train_here(replace(plan, data=data))
    metrics = read_json(plan.folder / "metrics.json")
    assert (metrics["step"], metrics["notes"], metrics["test/notes"]) == (80, 4, 4)
    assert read_metrics(plan.folder, "test")[-1]["pitch_accuracy"] == metrics["test/pitch_accuracy"]
    classifier = load_classifier(plan.folder, info)
    rows = Rows(data, "valid").read(["picture", "pitch", "family"])
    rows = {name: values[[0, 2, 5, 7]] for name, values in rows.items()}
    judged = classifier(demultiplex(torch.from_numpy(rows["picture"]).float(), info.spectrogram.cmx))
    for logits, label in ((judged.pitch_logits_BP, "pitch"), (judged.family_logits_BA, "family")):
        right = (logits.argmax(1).numpy() == rows[label]).mean()
        assert right == metrics[f"{label}_accuracy"] == metrics[f"test/{label}_accuracy"] > 0


def test_the_notes_of_a_batch_are_known_by_name(classifier_plan: Plan) -> None:
    """By which a loss that is not finite is told."""
    stage = stage_of(classifier_plan)
    names = Rows(classifier_plan.data, "train").read(["note_str"])["note_str"]
    expected = [names[row] for row in stage.batches.global_rows(3)]
    assert stage.batches.names(3, 0, 1) == expected and len(expected) == 4


def test_a_data_set_without_unseen_instruments(
    classifier_plan: Plan, train_here: Callable[[Plan], None], tmp_path: Path
) -> None:
    data = with_splits(classifier_plan.data, tmp_path / "data", "train", "valid")
    train_here(replace(with_config(classifier_plan, tmp_path / "run", steps=1), data=data))
    names = {"step", "notes", "cross_entropy", "pitch_accuracy", "family_accuracy"}
    assert read_json(tmp_path / "run" / "metrics.json").keys() == names


def test_a_classifier_of_other_notes_or_settings_is_refused(trained_classifier: Plan, info: DatasetInfo) -> None:
    folder, fix = trained_classifier.folder, "train one on this data set with mars train-classifier"
    other_cmx = replace(info.spectrogram, cmx=Size(2, 2))
    assert not load_classifier(folder, replace(info, spectrogram=other_cmx)).training
    with pytest.raises(ValueError, match=rf"{folder}: .* data set with source = short notes, not others: {fix}"):
        load_classifier(folder, replace(info, source="others"))
    with pytest.raises(
        ValueError, match=rf"{folder}: .* data set with spectrogram.num_samples = 2000, not 64000: {fix}"
    ):
        load_classifier(folder, replace(info, spectrogram=SpectrogramConfig()))


def test_another_kind_of_folder_is_refused(trained_tokenizer: Plan, info: DatasetInfo) -> None:
    with pytest.raises(ValueError, match="holds a model of kind 'tokenizer', wanted is 'classifier'"):
        load_classifier(trained_tokenizer.folder, info)


def test_notes_are_transposed_within_midi(classifier_plan: Plan, tmp_path: Path) -> None:
    plan = with_config(classifier_plan, tmp_path, ClassifierConfig(frames=4, transpose=3))
    stage, batch = stage_of(plan), {"place": torch.arange(400), "pitch": torch.full((400,), 60)}
    up_B = stage.transposition(batch, step=0)
    assert up_B.unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert not torch.equal(stage.transposition(batch, step=1), up_B)
    half = {name: values[200:] for name, values in batch.items()}
    assert torch.equal(stage.transposition(half, step=0), up_B[200:])
    for pitch, allowed in ((0, [0, 1, 2, 3]), (127, [-3, -2, -1, 0])):
        batch["pitch"] = torch.full((400,), pitch)
        assert stage.transposition(batch, step=0).unique().tolist() == allowed


def test_a_transposed_note_has_the_transposed_pitch(classifier_plan: Plan, tmp_path: Path) -> None:
    """The loss is that of the picture moved up, against the label moved up."""
    stage = stage_of(with_config(classifier_plan, tmp_path))
    batch = stage.batches.load(0, 0, 1)
    up_B = stage.transposition(batch, step=0)
    assert up_B.any()
    judged = stage.model(batch["picture"], up_B)
    expected = torch.nn.functional.cross_entropy(judged.pitch_logits_BP, batch["pitch"] + up_B)
    torch.testing.assert_close(stage.losses(batch, step=0)["pitch"], expected)


def test_it_trains_in_bf16(classifier_plan: Plan, train_here: Callable[[Plan], None], tmp_path: Path) -> None:
    train_here(with_config(classifier_plan, tmp_path, precision="bf16", steps=2))
    assert read_json(tmp_path / "metrics.json")["step"] == 2


def test_a_run_that_was_stopped_ends_like_an_undisturbed_one(
    classifier_plan: Plan,
    trained_classifier: Plan,
    train_here: Callable[[Plan], None],
    losses: Callable[[Plan], list[float]],
    tmp_path: Path,
) -> None:
    resumed = replace(classifier_plan, folder=tmp_path / "resumed")
    shutil.copytree(trained_classifier.folder, resumed.folder)
    shutil.rmtree(resumed.folder / "training" / "step_00000020")
    train_here(resumed)
    assert len((resumed.folder / "metrics.jsonl").read_text().splitlines()) > 30  # steps 11 to 20 twice
    assert losses(resumed) == losses(trained_classifier)

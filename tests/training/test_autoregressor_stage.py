"""What the autoregressor is trained to be asked for."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from mars_dist import rows
from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import QUALITY_CONDITIONS, UNASKED
from mars_dist.config import AutoregressorRunConfig
from mars_dist.dataset import Columns
from mars_dist.model import TOKENIZER, Mars, load_tokenizer, model_fingerprint, save_tokenizer
from mars_dist.nsynth import QUALITIES
from mars_dist.products import packed
from mars_dist.tokenizer import Tokenizer
from mars_dist.training.autoregressor_stage import NEAR, AutoregressorStage, keep_blocks
from mars_dist.training.loop import train
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun

NUM = 20_000


@pytest.fixture
def plan(autoregressor_plan: Plan, tmp_path: Path) -> Plan:
    """Two steps with qualities among the conditions."""
    config = autoregressor_plan.config
    assert isinstance(config, AutoregressorRunConfig)
    model = replace(config.autoregressor, condition_on_qualities=True, drop_all_conditions=0.2, drop_each_condition=0.1)
    steps = replace(config.train, steps=2, checkpoint_every=2, validate_every=2)
    return replace(autoregressor_plan, config=replace(config, autoregressor=model, train=steps), folder=tmp_path)


@pytest.fixture
def stage(plan: Plan) -> AutoregressorStage:
    stage = plan.stage(LocalRun(plan.folder))
    assert isinstance(stage, AutoregressorStage)
    return stage


def test_latents_are_read_only_where_codes_are_corrupted(plan: Plan, stage: AutoregressorStage, tmp_path: Path) -> None:
    config = plan.config
    assert isinstance(config, AutoregressorRunConfig)
    clean = replace(config, autoregressor=replace(config.autoregressor, corrupt_codes=0.0))
    of_clean = replace(plan, config=clean, folder=tmp_path / "clean").stage(LocalRun(tmp_path / "clean"))
    for one, read in ((stage, True), (of_clean, False)):
        assert isinstance(one, AutoregressorStage)
        batch = one.batches.load(0, 0, 1)
        assert ("latents" in batch, "latents" in one.held_out.evenly(2, 0, 1)) == (read, False)
        assert one.losses(batch, 0)["cross_entropy"].isfinite()


def test_labels_are_read_only_where_they_are_conditions(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count them, to train and to validate."""
    config, read = plan.config, set[str]()
    assert isinstance(config, AutoregressorRunConfig)
    from_table = rows.from_table

    def note_columns(table: pa.Table) -> Columns:
        read.update(table.column_names)
        return from_table(table)

    monkeypatch.setattr(rows, "from_table", note_columns)
    always = {"codes", "latents", "pitch", "velocity", "family", "source"}
    for instrument, qualities in ((False, False), (True, False), (False, True)):
        asked = replace(config.autoregressor, condition_on_instrument=instrument, condition_on_qualities=qualities)
        stage = replace(plan, config=replace(config, autoregressor=asked)).stage(LocalRun(tmp_path))
        assert isinstance(stage, AutoregressorStage)
        stage.batches.load(0, 0, 1)
        stage.validate()
        assert read == always | set(["instrument_str"] * instrument + ["qualities"] * qualities)
        read.clear()


def test_a_batch_has_each_notes_qualities(stage: AutoregressorStage) -> None:
    """Those of the short notes: pitch p has quality p % 10."""
    batch = stage.batches.load(0, 0, 1)
    for i, pitch in enumerate(batch["pitch"].tolist()):
        assert [int(batch[f"quality_{name}"][i]) for name in QUALITIES] == [int(j == pitch % 10) for j in range(10)]


def test_conditions_are_dropped_all_together_alone_and_qualities_as_one(stage: AutoregressorStage) -> None:
    torch.manual_seed(0)
    conditions = {name: torch.zeros(NUM, dtype=torch.long) for name in stage.vocabulary.cardinalities}
    dropped = stage.drop_conditions(conditions, torch.rand(NUM, 2 + len(conditions)))
    gone = {name: values_B == UNASKED for name, values_B in dropped.items()}

    def share(gone_B: Tensor) -> float:
        return gone_B.float().mean().item()

    qualities_BQ = torch.stack([gone.pop(name) for name in QUALITY_CONDITIONS.values()], dim=1)
    others_BN = torch.stack(list(gone.values()), dim=1)
    assert share(torch.cat([others_BN, qualities_BQ], dim=1).all(dim=1)) == pytest.approx(0.2, abs=0.01)
    for gone_B in others_BN.T:
        assert share(gone_B) == pytest.approx(1 - 0.8 * 0.9, abs=0.01)
    for gone_B in qualities_BQ.T:
        assert share(gone_B) == pytest.approx(1 - 0.8 * 0.9 * 0.9, abs=0.01)
    assert share(qualities_BQ.all(dim=1)) == pytest.approx(1 - 0.8 * 0.9, abs=0.01)
    kept_B = ~qualities_BQ.all(dim=1)
    assert share(others_BN[kept_B, 0]) == pytest.approx(0.1, abs=0.01)


def test_its_folder_knows_the_training_notes(plan: Plan, train_here: Callable[[Plan], None]) -> None:
    train_here(plan)
    mars = Mars.from_pretrained(plan.folder)
    assert mars.histogram.counts_N.tolist() == [1] * 12
    [note] = mars.labels(pitch=52)
    assert note == {
        "pitch": 52,
        "velocity": 100,
        "family": "string",
        "source": "acoustic",
        "instrument": "string_acoustic_052",
        "qualities": ["distortion"],
    }
    assert [note["pitch"] for note in mars.labels(5, qualities=["distortion"])] == [52] * 5
    assert mars.generate(2, qualities=["bright"]).shape == (2, 2000)


def test_a_tokenizer_that_is_trained_on_meanwhile_is_not_the_one_within(plan: Plan, tmp_path: Path) -> None:
    before, folder, run = plan.tokenizer_folder, tmp_path / "tokenizer", LocalRun(tmp_path / "run")
    shutil.copytree(before, folder)
    stage = replace(plan, tokenizer=folder).stage(run)
    tokenizer, settings = load_tokenizer(folder)
    better = {name: tensor + 0.1 for name, tensor in tokenizer.state_dict().items()}
    save_tokenizer(folder, better, settings, {"mse": 0.0})
    train(stage, run)
    assert model_fingerprint(run.folder / TOKENIZER) == model_fingerprint(before) != model_fingerprint(folder)
    assert Mars.from_pretrained(run.folder).generate().shape == (1, 2000)


def test_while_it_trains_notes_are_shown_without_copies_of_the_weights(
    plan: Plan, train_here: Callable[[Plan], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = list[nn.Module]()

    def packed_once_seen(network: nn.Module) -> nn.Module:
        copied.append(network)
        return packed(network)

    monkeypatch.setattr("mars_dist.model.packed", packed_once_seen)
    train_here(plan)
    assert not copied
    Mars.from_pretrained(plan.folder).generate()
    assert [type(network) for network in copied] == [Autoregressor, Tokenizer]


def test_targets_are_the_codes_for_what_is_missing_after_swapped_ones(stage: AutoregressorStage) -> None:
    """Infinity's self-correction: each scale's targets are what the quantizer would choose after the corrupted path."""
    batch, quantizer = stage.batches.load(0, 0, 1), stage.quantizer
    f_BChw, num_codes = batch["latents"], batch["codes"].shape[1]
    uniform_BU = torch.rand(len(f_BChw), 1 + 2 * num_codes, generator=torch.Generator().manual_seed(0))
    uniform_BU[:, 0] = 1  # the most rows may have: 0.3 of their codes
    targets_BL, inputs_BLC = stage.corrupt(f_BChw, uniform_BU)
    swapped_BL = uniform_BU[:, 1 : 1 + num_codes] < stage.config.autoregressor.corrupt_codes
    f_hat_BChw, begun = torch.zeros_like(f_BChw), 0
    for k, span in enumerate(stage.code_spans):
        z_BkC = quantizer.residual(k, f_BChw, f_hat_BChw)
        assert torch.equal(targets_BL[:, span], quantizer.chosen(k, z_BkC))
        near_BkN = quantizer.nearest_several(k, z_BkC, NEAR)
        which_Bk1 = (uniform_BU[:, 1 + num_codes :][:, span, None] * NEAR).long()
        path_Bk = torch.where(swapped_BL[:, span], near_BkN.gather(-1, which_Bk1)[..., 0], targets_BL[:, span])
        f_hat_BChw = quantizer.add_scale(k, f_hat_BChw, path_Bk)
        if k + 1 < len(stage.code_spans):
            expected_BkC = quantizer.next_input(k + 1, f_hat_BChw)
            shown_BkC = inputs_BLC[:, begun : begun + expected_BkC.shape[1]]
            torch.testing.assert_close(shown_BkC, expected_BkC)
            begun += expected_BkC.shape[1]
    assert swapped_BL.any() and begun == inputs_BLC.shape[1]


def test_nothing_swapped_leaves_the_codes_of_the_data_set(stage: AutoregressorStage) -> None:
    batch = stage.batches.load(0, 0, 1)
    uniform_BU = torch.ones(len(batch["codes"]), 1 + 2 * batch["codes"].shape[1]) * 0.999
    targets_BL, inputs_BLC = stage.corrupt(batch["latents"], uniform_BU)
    assert (targets_BL == batch["codes"]).float().mean() > 0.95  # the data set's latents are rounded to 16 bits
    torch.testing.assert_close(inputs_BLC, stage.quantizer.next_inputs(targets_BL))


def test_the_later_a_block_the_more_rows_skip_it() -> None:
    keep_BN = keep_blocks(torch.rand(NUM, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    assert (keep_BN == 0).float().mean(0).tolist() == pytest.approx([0, 0.1, 0.2], abs=0.01)
    assert keep_BN.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.02)


def test_scales_count_by_a_power_of_their_tokens(stage: AutoregressorStage) -> None:
    """Scales of 1, 2 and 8 tokens."""
    nats_K = torch.tensor([1.0, 2.0, 3.0])
    assert stage.mean_over_scales(nats_K).item() == pytest.approx((1 + 4 + 24) / 11)
    assert stage.mean_over_scales(nats_K, 0.0).item() == pytest.approx(2)
    by_root = (1 + 2**0.5 * 2 + 8**0.5 * 3) / (1 + 2**0.5 + 8**0.5)
    assert stage.mean_over_scales(nats_K, 0.5).item() == pytest.approx(by_root)


def test_the_best_weights_are_those_of_the_least_loss(stage: AutoregressorStage) -> None:
    """Although another one may have the least cross-entropy over all codes alike."""
    assert stage.better({"loss": 1.0, "cross_entropy": 3.0}, {"loss": 1.1, "cross_entropy": 2.0})
    figures = stage.validate()
    nats_K = torch.tensor([value for name, value in figures.items() if name.startswith("scales/cross_entropy")])
    assert figures["loss"] == pytest.approx(stage.mean_over_scales(nats_K, 0.5).item(), rel=1e-4)

"""Training the classifier of pitch and family.

Suffixes: B batch, F N bins and frames, P pitches, A families.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mars_dist.classifier import NUM_PITCHES, Classifier, Judgement, average_time
from mars_dist.cmx import demultiplex
from mars_dist.config import ClassifierRunConfig
from mars_dist.dataset import Columns, DatasetInfo
from mars_dist.model import save_classifier
from mars_dist.rows import Group, Rows
from mars_dist.training import sharding
from mars_dist.training.batches import Batch, Batches, HeldOut, keyed_uniform, rows_at_once
from mars_dist.training.journal import Journal
from mars_dist.training.loop import Stage
from mars_dist.training.run import Run
from mars_dist.training.tokenizer_stage import require_fit

LABELS = ("pitch", "family")
COLUMNS = ["picture", *LABELS]
UNSEEN = "test"
"""The split whose instruments were never trained on."""


class BriefRows(Rows):
    """Rows whose pictures have their time averaged as they are read: so thousands are held in memory and shuffled."""

    def __init__(self, folder: str, split: str, info: DatasetInfo, frames: int) -> None:
        super().__init__(folder, split, info)
        self.frames = frames

    def read_group(self, group: Group, columns: Sequence[str]) -> Columns:
        found = super().read_group(group, columns)
        if "picture" not in columns:
            return found
        picture_B1FN = demultiplex(torch.from_numpy(found["picture"]), self.info.spectrogram.cmx)
        return found | {"picture": average_time(picture_B1FN.float(), self.frames).half().numpy()}


class ClassifierStage(Stage):
    """What the loop trains when it trains a classifier. Raises ValueError where the data set does not fit."""

    name = "classifier"

    def __init__(self, config: ClassifierRunConfig, data: str, run: Run) -> None:
        self.config, self.train, self.optim, self.run = config, config.train, config.optim, run
        self.info = require_fit(config, data)[0].info
        rows = partial(BriefRows, data, info=self.info, frames=config.classifier.frames)
        self.batches = Batches(rows(split="train"), COLUMNS, prepare, self.train)
        self.held_out = HeldOut(rows(split="valid"), COLUMNS, prepare)
        self.unseen = HeldOut(rows(split=UNSEEN), COLUMNS, prepare) if self.info.counts.get(UNSEEN) else None
        self.judged_by = config.judged_by
        torch.manual_seed(self.train.seed)
        self.model: Classifier = sharding.on_rank_0(lambda: Classifier(config.classifier, config.spectrogram))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of both questions, for notes that are transposed."""
        up_B = self.transposition(batch, step)
        part = {"picture": batch["picture"], "pitch": batch["pitch"] + up_B, "family": batch["family"]}
        part = {name: values.to(self.run.device, non_blocking=True) for name, values in part.items()}
        return nats(self.model(part["picture"], up_B.to(self.run.device)), part)

    def transposition(self, batch: Batch, step: int) -> Tensor:
        """(B,) semitones, keyed by (seed, step, place); no note leaves the range of MIDI."""
        most, pitch_B = self.config.classifier.transpose, batch["pitch"]
        uniform_B = keyed_uniform(self.train.seed, step, batch["place"], 1)[:, 0]
        up_B = (uniform_B * (2 * most + 1)).long() - most
        return up_B.clamp(-pitch_B, NUM_PITCHES - 1 - pitch_B)

    def validate(self) -> dict[str, float]:
        """Cross-entropy, and how many notes' pitch and family it gets right, of instruments that it was trained on."""
        batch = self.held_out.evenly(self.train.validation_rows, self.run.rank, self.run.world_size)
        return sharding.mean_over_workers(self.measure(self.model, batch))

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Means over the notes of a batch, which may be large."""
        sums = torch.zeros(3, device=self.run.device)
        num_notes, at_once = len(batch["pitch"]), rows_at_once(self.train, self.run.world_size)
        for start in range(0, num_notes, at_once):
            part = {name: values[start : start + at_once].to(self.run.device) for name, values in batch.items()}
            judged = model(part["picture"])
            loss = torch.stack(list(nats(judged, part).values())).sum()
            pitch_right_B = judged.pitch_logits_BP.argmax(1) == part["pitch"]
            family_right_B = judged.family_logits_BA.argmax(1) == part["family"]
            sums += torch.stack([loss * len(pitch_right_B), pitch_right_B.sum(), family_right_B.sum()])
        names = ("cross_entropy", "pitch_accuracy", "family_accuracy")
        return dict(zip(names, (sums / num_notes).tolist(), strict=True))

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the folder, with what the classifier is worth on the test split, of other instruments."""
        num_notes = self.held_out.num_evenly(self.train.validation_rows, self.run.world_size)
        metrics = {"step": step, "notes": num_notes} | figures
        if self.unseen:
            plain = Classifier(self.config.classifier, self.config.spectrogram).to(self.run.device).eval()
            plain.load_state_dict(weights)
            batch = self.unseen.evenly(self.train.validation_rows, 0, 1)
            unseen = {"notes": float(len(batch["pitch"]))} | self.measure(plain, batch)
            journal.keep(UNSEEN, step, unseen)
            metrics |= {f"{UNSEEN}/{name}": value for name, value in unseen.items()}
        save_classifier(self.run.folder, weights, self.config, self.info, metrics)


def nats(judged: Judgement, batch: Batch) -> dict[str, Tensor]:
    """The mean cross-entropy of each question."""
    return {
        "pitch": cross_entropy(judged.pitch_logits_BP.float(), batch["pitch"]),
        "family": cross_entropy(judged.family_logits_BA.float(), batch["family"]),
    }


def prepare(columns: Columns) -> Batch:
    labels = {name: torch.from_numpy(columns[name].astype(np.int64)) for name in LABELS}
    return {"picture": torch.from_numpy(columns["picture"].astype(np.float32))} | labels

"""The classifier of pitch and family."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from mars_dist.classifier import Classifier, average_time, logarithmic_axis, move_up
from mars_dist.config import ClassifierConfig, SpectrogramConfig
from mars_dist.scales import Size

SETTINGS = SpectrogramConfig(num_samples=16_000, n_fft=256, hop=250)
OCTAVE = 24


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(frames=8, width=8, features=24), SETTINGS)


def pictures(num: int = 3) -> Tensor:
    """(B, 1, 128, 64)."""
    return 2 * torch.rand(num, 1, 128, 64, generator=torch.Generator().manual_seed(1)) - 1


def tone(fundamental: int, overtones: int, decay: float) -> Tensor:
    """A note (1, 128, 64) with its fundamental in the given bin."""
    bins_F = torch.arange(128)
    line_F = (bins_F % fundamental == 0) & (bins_F > 0) & (bins_F <= overtones * fundamental)
    return (line_F[:, None] * torch.exp(-decay * torch.arange(64)) * 1.5 - 1)[None]


@pytest.mark.parametrize(
    "settings", [SETTINGS, SpectrogramConfig(), SpectrogramConfig(num_samples=2000, n_fft=50, hop=25, cmx=Size(5, 4))]
)
def test_shapes(settings: SpectrogramConfig) -> None:
    classifier = Classifier(ClassifierConfig(features=24), settings)
    judged = classifier(torch.zeros(2, 1, settings.num_bins, settings.num_frames))
    assert [tuple(part.shape) for part in judged] == [(2, 128), (2, 11), (2, 24), (2, 24)]


def test_features_are_of_unit_size(classifier: Classifier) -> None:
    """Else the kernel distances of two classifiers would not compare."""
    for features_BD in classifier(pictures())[2:]:
        torch.testing.assert_close(features_BD.square().mean(1), torch.ones(3), rtol=1e-2, atol=0)


def test_each_picture_is_judged_by_itself(classifier: Classifier) -> None:
    together = classifier(pictures())
    for i in range(3):
        for part, whole in zip(classifier(pictures()[i : i + 1]), together, strict=True):
            torch.testing.assert_close(part[0], whole[i])


def test_time_may_be_averaged_before(classifier: Classifier) -> None:
    brief = average_time(pictures(), 8)
    assert brief.shape == (3, 1, 128, 8)
    torch.testing.assert_close(brief[..., 1], pictures()[..., 8:16].mean(-1))
    torch.testing.assert_close(classifier(brief), classifier(pictures()))


def test_silence_is_nothing(classifier: Classifier) -> None:
    """The first convolution sees zeros, wherever it is moved to, and what follows stays finite."""
    silence, seen = torch.full((2, 1, 128, 64), -1.0), []
    classifier.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for up_B in (None, torch.tensor([5, -5])):
        judged = classifier(silence, up_B)
        assert all(part.isfinite().all() for part in judged)
    assert all(not x_BTQ.any() for x_BTQ in seen)


@given(st.integers(8, 1024), st.data())
def test_an_octave_is_as_far_everywhere(num_bins: int, data: st.DataObject) -> None:
    axis_FQ = logarithmic_axis(num_bins)
    torch.testing.assert_close(axis_FQ.sum(0), torch.ones(axis_FQ.shape[1]))
    frequency = data.draw(st.integers(2, (num_bins - 1) // 3))
    low, high = axis_FQ[frequency].argmax(), axis_FQ[2 * frequency].argmax()
    assert abs(high - low - OCTAVE) <= 1


def test_moving_up_by_hand() -> None:
    x_BTQ = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]], [[7.0, 8.0, 9.0]]])
    moved = move_up(x_BTQ, torch.tensor([1, -2, 0]))
    assert moved[:, 0].tolist() == [[0, 1, 2], [6, 0, 0], [7, 8, 9]]


def test_a_transposed_note_looks_like_a_higher_one(classifier: Classifier) -> None:
    """Up by an octave is what twice the frequency is; by another interval it is not."""
    low, high = tone(16, 3, 0.02)[None], tone(32, 3, 0.02)[None]
    features = lambda x, up: classifier(x, torch.tensor([up])).pitch_features_BD  # noqa: E731
    near, far = ((features(low, up) - features(high, 0)).norm() for up in (12, 7))
    assert near < far / 2


def test_gradients_reach_everything(classifier: Classifier) -> None:
    judged = classifier(pictures(), torch.tensor([0, 3, -3]))
    loss = cross_entropy(judged.pitch_logits_BP, torch.tensor([60, 61, 62]))
    loss = loss + cross_entropy(judged.family_logits_BA, torch.tensor([0, 1, 2]))
    loss.backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_it_learns_notes_by_heart(classifier: Classifier) -> None:
    notes = [(pitch, family) for pitch in range(8) for family in range(4)]
    x_B1FN = torch.stack([tone(6 + 2 * pitch, 2 + family % 2, 0.01 + 0.2 * (family // 2)) for pitch, family in notes])
    pitch_B, family_B = torch.tensor(notes).T
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=5e-3, fused=True)
    for _ in range(40):
        judged = classifier(x_B1FN)
        loss = cross_entropy(judged.pitch_logits_BP, pitch_B) + cross_entropy(judged.family_logits_BA, family_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judged = classifier(x_B1FN)
    assert judged.pitch_logits_BP.argmax(1).tolist() == pitch_B.tolist()
    assert judged.family_logits_BA.argmax(1).tolist() == family_B.tolist()

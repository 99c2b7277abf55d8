"""What is told and drawn of a data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mars_dist import show
from mars_dist.dataset import DatasetInfo, Rejected
from mars_dist.report.media import PICTURE_HEIGHT, PICTURE_WIDTH
from mars_dist.rows import Rows
from mars_dist.scales import Size
from mars_dist.show import CAPTION, COLUMNS, GAP, draw, draw_codes, spread, table


def lines_of(text: str) -> dict[str, str]:
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return {name: rest[0] if rest else "" for name, *rest in found}


def test_a_table_tells_what_pictures_are_there(short_pictures: str) -> None:
    rows = Rows(short_pictures, "valid")
    lines = lines_of(table(rows.info, rows.folder))
    assert lines["data"] == f"set     {short_pictures}, pictures"
    assert "n_fft 128, hop 125, cmx 4x4" in lines["spectrogram"]
    assert "picture 16x16x4 float16" in lines["arrays"] and "wave 2000 int16" in lines["arrays"]
    size = (Path(short_pictures) / "valid-00000.parquet").stat().st_size / 2**20
    assert lines["valid"].startswith(f"4 notes in 1 shards, {size:.1f} MiB; 4 instruments, pitches ")
    assert lines["rejected"] == "0"
    families = [line.split() for line in table(rows.info, rows.folder).splitlines()[-11:]]
    assert [sum(int(line[i]) for line in families) for i in (1, 2, 3)] == [12, 4, 3]


def test_labels_are_read_once_and_dataset_json_not_again(short_pictures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many shards in a store either takes long."""
    rows, asked, load, read = Rows(short_pictures, "valid"), list[str](), DatasetInfo.load, Rows.read
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: asked.append(folder.name) or load(folder))
    monkeypatch.setattr(Rows, "read", lambda self, columns: asked.append(self.split) or read(self, columns))
    table(rows.info, rows.folder)
    assert asked == ["train", "valid", "test"]


def test_rejected_notes_are_told_with_their_reasons(short_pictures: str) -> None:
    rows = Rows(short_pictures, "valid")
    info = replace(rows.info, rejected=tuple(Rejected(f"note {i}", "train", "2 channels") for i in range(7)))
    text = table(info, rows.folder)
    assert text.count("(train): 2 channels") == 5 and "... and 2 more in dataset.json" in text


def test_codes_have_their_scales_and_their_tokenizer(short_codes: str) -> None:
    rows = Rows(short_codes, "train")
    lines = lines_of(table(rows.info, rows.folder))
    assert lines["scales"] == "1x1 2x1 4x2"
    assert rows.info.tokenizer and f"tokenizer {rows.info.tokenizer[:12]}" in lines["made"]


@pytest.mark.parametrize("kind", ["short_pictures", "short_codes"])
def test_notes_are_drawn_side_by_side(kind: str, request: pytest.FixtureRequest) -> None:
    rows = Rows(request.getfixturevalue(kind), "train")
    sheet = np.asarray(draw(rows, 5))
    assert sheet.shape == (GAP + 2 * (CAPTION + PICTURE_HEIGHT + GAP), GAP + COLUMNS * (PICTURE_WIDTH + GAP), 3)
    for i in range(8):
        top = GAP + i // COLUMNS * (CAPTION + PICTURE_HEIGHT + GAP)
        left = GAP + i % COLUMNS * (PICTURE_WIDTH + GAP)
        cell = sheet[top : top + CAPTION + PICTURE_HEIGHT, left : left + PICTURE_WIDTH]
        caption, picture = cell[:CAPTION], cell[CAPTION:]
        assert ((caption < 255).any(), (picture < 255).mean() > 0.5) == ((True, True) if i < 5 else (False, False))


def test_a_caption_has_the_letters_of_its_instrument(short_pictures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not one box for each that Pillow's own font lacks."""
    rows, sheets = Rows(short_pictures, "train"), []
    [note] = spread(rows, 1)
    for name in ("Flügel", "Flñgel"):
        monkeypatch.setattr(show, "spread", lambda *_, name=name: [note | {"instrument_str": name}])
        sheets.append(np.asarray(draw(rows, 1)))
    assert (sheets[0] != sheets[1]).any()


def test_notes_lie_evenly_over_the_split(short_pictures: str) -> None:
    rows = Rows(short_pictures, "train")
    pitches = rows.read(["pitch"])["pitch"]
    assert [note["pitch"] for note in spread(rows, 3)] == [pitches[i] for i in (0, 6, 11)]
    assert len(spread(rows, 100)) == 12


def test_codes_have_their_places_and_equal_ones_a_colour() -> None:
    scales = (Size(1, 1), Size(2, 2))
    plain = np.asarray(draw_codes(np.array([7, 1, 2, 3, 1]), scales))
    doubled = np.asarray(draw_codes(np.array([7, 0, 1, 9, 2, 8, 3, 5, 1, 6]), scales))
    assert (plain == doubled).all(), "two branches: the first is drawn"
    half, top, bottom = PICTURE_WIDTH // 2, 10, PICTURE_HEIGHT - 10
    left, right = half + 10, PICTURE_WIDTH - 10
    assert (plain[top, 10] == plain[bottom, 10]).all()
    assert (plain[bottom, left] == plain[top, right]).all(), "code 1 is low and early, and high and late"
    assert (plain[bottom, left] != plain[bottom, right]).any() and (plain[top, left] != plain[bottom, right]).any()

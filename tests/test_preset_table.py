"""The table of presets, and the page in docs/ that is made of it."""

from pathlib import Path

from mars_dist.preset_table import as_markdown, as_text
from mars_dist.presets import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"


def test_the_page_is_what_the_code_makes() -> None:
    """Where this fails: mars presets --markdown > docs/presets.md, and read the diff."""
    assert PAGE.read_text() == as_markdown(PRESETS) + "\n"


def test_the_text_is_aligned_and_fits_a_terminal() -> None:
    text = as_text({"debug": PRESETS["debug"], "mine": PRESETS["debug"]})
    rows, _, scales = text.partition("\n\n")
    lines = rows.splitlines()
    assert lines[0].split() == ["preset", "debug", "mine"]
    assert len({len(line) for line in lines}) == 1
    first, cell = len("autoregressor memory, 8 workers"), len("  128x32x32") + 2
    assert len(lines[0]) <= first + 2 * cell and first + 5 * cell <= 100
    assert ["tokens", "L", "21", "21"] in [line.split() for line in lines]
    assert scales.splitlines()[1].split() == ["debug", "1x1", "2x2", "4x4"]


def test_a_dash_where_there_are_fewer_rows_than_workers() -> None:
    lines = as_text({"debug": PRESETS["debug"]}).splitlines()
    [line] = [line for line in lines if line.startswith("tokenizer memory, 8 workers")]
    assert line.split()[-1] == "-"

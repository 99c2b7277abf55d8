"""Dataclasses as JSON and TOML, and what a typo is told."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.config import OptimConfig, TokenizerRunConfig
from mars_dist.presets import PRESETS, Preset
from mars_dist.scales import Size
from mars_dist.serialize import fingerprint, from_plain, read_json, read_toml, to_plain, write_json


@dataclass(frozen=True)
class Inner:
    size: Size = Size(1, 2)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    flag: bool = False
    number: int = 0
    limit: float | None = None
    each: float | tuple[float, ...] = 1.0
    sizes: tuple[Size, ...] = ()
    inner: Inner = field(default_factory=Inner)


sizes = st.builds(Size, st.integers(1, 99), st.integers(1, 99))
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, sizes, st.tuples(finite, finite))
outers = st.builds(
    Outer,
    st.text(),
    st.booleans(),
    st.integers(),
    st.none() | finite,
    finite | st.lists(finite).map(tuple),
    st.lists(sizes).map(tuple),
    inners,
)


@given(outers)
def test_json_and_back(outer: Outer) -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(outer)))) == outer


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name: str) -> None:
    plain = json.loads(json.dumps(to_plain(PRESETS[name])))
    assert from_plain(Preset, plain) == PRESETS[name]
    assert plain["tokenizer"]["tokenizer"]["scales"][0] == "1x1"


def test_what_is_left_out_comes_from_the_base_at_any_depth() -> None:
    base = Outer(name="b", number=3, inner=Inner(Size(4, 4), (2.0, 3.0)))
    assert from_plain(Outer, {"flag": True, "inner": {"size": "5"}}, base) == Outer(
        name="b", number=3, flag=True, inner=Inner(Size(5, 5), (2.0, 3.0))
    )
    assert from_plain(Outer, {"inner": {"size": "5"}}) == Outer(inner=Inner(Size(5, 5)))


def test_an_integer_will_do_for_a_float() -> None:
    lr = from_plain(OptimConfig, {"lr": 1}).lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize(
    "plain, answer",
    [
        ({"tokeniser": {}}, "^tokeniser: unknown setting: did you mean tokenizer[?]$"),
        ({"optim": {"warmup": 3}}, "^optim.warmup: unknown setting: did you mean optim.warmup_steps[?]$"),
        ({"codebook": {"zzz": 3}}, "^codebook.zzz: unknown setting: there are start_step, restart_every"),
        ({"train": 3}, "^train: 3 is not TrainConfig$"),
        ({"train": {"steps": 2.5}}, "^train.steps: 2.5 is not int$"),
        ({"train": {"steps": True}}, "^train.steps: True is not int$"),
        ({"train": {"steps": "10"}}, "^train.steps: '10' is not int$"),
        ({"train": {"precision": "fp16"}}, "^train.precision: 'fp16' is not 'auto' or 'float32' or 'bf16'$"),
        ({"optim": {"lr": "1e-3"}}, "^optim.lr: '1e-3' is not float$"),
        ({"optim": {"lr": True}}, "^optim.lr: True is not float$"),
        ({"optim": {"lr": None}}, "^optim.lr: None is not float$"),
        ({"optim": {"betas": [0.9]}}, "^optim.betas: .* is not tuple"),
        ({"optim": {"betas": [0.9, "x"]}}, "^optim.betas: 'x' is not float$"),
        ({"optim": {"betas": 0.9}}, "^optim.betas: 0.9 is not tuple"),
        ({"tokenizer": {"patch": "4by4"}}, "^tokenizer.patch: '4by4' is not a size"),
        ({"tokenizer": {"patch": 4}}, "^tokenizer.patch: 4 is not Size$"),
        ({"tokenizer": {"scales": ["1x1", 2]}}, "^tokenizer.scales: 2 is not Size$"),
        ({"tokenizer": {"scales": ["2x2"]}}, "^scales: the first scale is 2x2"),
    ],
)
def test_what_is_wrong_is_named(plain: dict[str, object], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        from_plain(TokenizerRunConfig, plain)


def test_a_text_is_no_flag() -> None:
    with pytest.raises(ValueError, match=r"^flag: 'yes' is not bool$"):
        from_plain(Outer, {"flag": "yes"})
    with pytest.raises(ValueError, match=r"^limit: 'none' is not float$"):
        from_plain(Outer, {"limit": "none"})
    for value in ("x", ["x"]):
        with pytest.raises(ValueError, match=r"^each: 'x' is not float$"):
            from_plain(Outer, {"each": value})


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for read in (read_json, read_toml):
        with pytest.raises(ValueError, match="file: there is no such file"):
            read(path)
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match="file: damaged"):
        read_json(path)
    with pytest.raises(ValueError, match="file: no valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="file: damaged"):
        read_json(path)
    with pytest.raises(ValueError, match="file: no valid TOML"):
        read_toml(path)


def test_toml_is_utf_8_whatever_the_machine_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without the mark that Windows' editors put in front."""
    monkeypatch.setattr("locale.getencoding", lambda: "latin-1")
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.toml").write_text('name = "Bogenflügel"', encoding)
        assert read_toml(tmp_path / "x.toml") == {"name": "Bogenflügel"}


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    values = [0.1, 1e-300, math.pi, 2**62]
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values


def test_a_fingerprint_is_of_contents_alone(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for path, text in ((a, "one"), (b, "one"), (c, "two")):
        path.write_text(text)
    assert fingerprint(a) == fingerprint(b) != fingerprint(c)
    assert fingerprint(a, c) != fingerprint(c, a)
    assert len(fingerprint(a)) == 64

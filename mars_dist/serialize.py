"""Configuration as JSON and TOML: dataclasses <-> plain dicts, with an answer to every typo."""

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mars_dist.scales import Size
from mars_dist.whole import whole

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass as what JSON knows; sizes as `8x4`."""
    if isinstance(value, Size):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], plain: dict[str, Any], base: T | None = None, where: str = "") -> T:
    """A dataclass from a dict; what the dict leaves out is taken from `base`, else from the defaults.

    Raises ValueError for an unknown field ("did you mean"), and for a value of the wrong type.
    """
    hints = hints_of(kind)  # type: ignore[arg-type]
    for name in plain:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {where}{close[0]}?" if close else f"there are {', '.join(hints)}"
            raise ValueError(f"{where}{name}: unknown setting: {hint}")
    values = {
        name: convert(hints[name], value, getattr(base, name, None), f"{where}{name}") for name, value in plain.items()
    }
    return dataclasses.replace(base, **values) if base is not None else kind(**values)  # type: ignore[type-var]


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Half of the time of opening a data set, were they looked up for each shard."""
    return get_type_hints(kind)


def convert(kind: Any, value: Any, base: Any, where: str) -> Any:
    """One value, checked against its annotation."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_plain(kind, value, base, f"{where}.")  # type: ignore[arg-type]
    if kind is Size and isinstance(value, str):
        try:
            return Size.parse(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(convert(k, item, None, where) for k, item in zip(kinds, value, strict=True))
    if origin is Literal and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        members = [k for k in arguments if k is not type(None)]
        fitting = [k for k in members if (get_origin(k) is tuple) == isinstance(value, list)]
        return convert((fitting or members)[0], value, base, where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where}: {value!r:.80} is not {wanted}")


def write_json(path: Path, value: Any) -> None:
    with whole(path) as half_written:
        half_written.write_bytes(as_json(value))


def as_json(value: Any) -> bytes:
    return (json.dumps(to_plain(value), indent=1) + "\n").encode()


def read_json(path: Path) -> Any:
    """Raises ValueError where the file is missing or damaged."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None


def parse_json(text: bytes, where: str) -> Any:
    """Raises ValueError where it is damaged."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: damaged: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ValueError where the file is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid TOML: {error}") from None


def fingerprint(*paths: Path) -> str:
    """The sha256 of the files' contents, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def first_difference(before: Any, now: Any, name: str = "") -> str | None:
    """`optim.lr = 0.1, not 0.2`: the first field in which two plain values differ."""
    for differing, value_before, value in differences(before, now, name):
        return f"{differing.removeprefix('config.')} = {value_before}, not {value}"
    return None


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each field of `now` in which two plain values differ, such as optim.lr, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            yield from differences(before.get(key), now[key], f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now

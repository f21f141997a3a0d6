"""Parsing of plain values into frozen dataclasses, checked against the types of their fields.

Supported types are `bool`, `int`, `float`, `str`, `Literal`, `tuple[X, ...]`, `dict[str, X]`, `Any`, another dataclass,
and `Annotated[X, Interval(...)]`. Checks are strict: booleans and strings are not numbers, but an integer is a float.
Lists and tuples are equivalent. Every error is one line: path, value, and what is allowed.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval

from dim_jax.cli.command_line import printable

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Option:
    """One option of a loss or a network: its type and its default."""

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Options:
    """Metadata of a field whose own fields depend on which loss or network is chosen.

    Attributes:
      noun: "loss", "model" or "generator", for messages.
      of: name -> its options. Raises ValueError for an unknown name.
      names: the registered names, which need no import path; () if there is nothing to choose.
    """

    noun: str
    of: Callable[[str], dict[str, Option]]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A loss or a network by its name, with all of its options; the name is "" if there is nothing to choose."""

    name: str
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns name and options in one dict, as in a configuration."""
        return {**({"name": self.name} if self.name else {}), **self.options}


@dataclass(frozen=True)
class Added:
    """Metadata of a field that was added in a later revision.

    Attributes:
      since: revision of the configuration, as listed in runs/schema.py.
      before: the value that reproduces runs of earlier revisions.
    """

    since: int
    before: Any


def metadata(annotation: Any, kind: type) -> Any:
    """Returns the first metadata of that kind of an annotated type, or None."""
    return next((item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, kind)), None)


def plain(annotation: Any) -> Any:
    """Returns a type without its metadata; of a union, the member that a configuration can hold."""
    if get_origin(annotation) is Annotated:
        return plain(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        return next((member for member in members if member in KINDS), members[0])
    return annotation


def is_supported(annotation: Any) -> bool:
    """Whether values can be checked against a type."""
    base = plain(annotation)
    if base in KINDS or base is Any or get_origin(base) is Literal or dataclasses.is_dataclass(base):
        return True
    members = [member for member in get_args(base) if member is not Ellipsis]
    return _is_sequence(base) and bool(members) and all(map(is_supported, members))


def type_of(value: Any) -> Any:
    """Infers a type from a default: bool, int, float or str, or a tuple of the type of its first item."""
    if isinstance(value, list | tuple):
        return tuple[type_of(value[0]) if value else float, ...]
    return next((kind for kind in KINDS if isinstance(value, kind)), Any)


def allowed(annotation: Any) -> str:
    """Describes in words the values that a type allows."""
    base, interval = plain(annotation), metadata(annotation, Interval)
    if get_origin(base) is Literal:
        return "one of " + ", ".join(map(str, get_args(base)))
    if base in KINDS:
        return " ".join(filter(None, (KINDS[base], _bounds(interval)))) if interval else KINDS[base]
    if _is_sequence(base):
        members = get_args(base)
        if len(members) == 1 or members[-1] is Ellipsis:
            return f"a list; each item {allowed(members[0])}"
        return f"a list of {len(members)}: {'; '.join(map(allowed, members))}"
    return "a group of fields" if dataclasses.is_dataclass(base) or get_origin(base) is dict else "any value"


def _bounds(interval: Interval) -> str:
    low, high = interval.ge if interval.ge is not None else interval.gt, interval.le
    if low is not None and high is not None and interval.gt is None:
        return f"from {_text(low)} to {_text(high)}"
    if low is not None and high is not None:
        return f"above {_text(low)} and up to {_text(high)}"
    words = []
    if low is not None:
        words.append(f"above {_text(low)}" if interval.gt is not None else f"of at least {_text(low)}")
    if high is not None or interval.lt is not None:
        words.append(f"up to {_text(high)}" if high is not None else f"below {_text(interval.lt)}")
    return " and ".join(words)


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def convert(annotation: Any, value: Any, path: str, partial: bool = False) -> Any:
    """Converts `value` to a type: lists to tuples, groups to dataclasses.

    Args:
      path: dotted name, for messages.
      partial: allow missing fields of dataclasses; they become None.

    Raises:
      ValueError: the value is not allowed, or a field is missing or unknown.
    """
    base, options = plain(annotation), metadata(annotation, Options)
    if options is not None:
        return _choice(options, value, path)
    if dataclasses.is_dataclass(base):
        return parse(base, value, path, partial)
    if get_origin(base) is dict:
        member = get_args(base)[1]
        return {name: convert(member, item, join_path(path, name)) for name, item in _group(value, path).items()}
    if not fits(annotation, value):
        raise ValueError(f"{path}={value!r} must be {allowed(annotation)}{_nearest_choice(base, value)}")
    return as_tuple(value)


def as_tuple(value: Any) -> Any:
    """Returns a value with all of its lists as tuples."""
    if isinstance(value, Mapping):
        return {name: as_tuple(item) for name, item in value.items()}
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


def fits(annotation: Any, value: Any) -> bool:
    """Whether a type allows a value."""
    base, interval = plain(annotation), metadata(annotation, Interval)
    if get_origin(base) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(base))
    if base in (bool, str):
        return isinstance(value, base)
    if base in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float if base is float else int):
            return False
        return math.isfinite(value) and (interval is None or _is_within(interval, value))
    if _is_sequence(base):
        members = get_args(base)
        if not isinstance(value, list | tuple):
            return False
        if len(members) == 1 or members[-1] is Ellipsis:
            return all(fits(members[0], item) for item in value)
        return len(members) == len(value) and all(map(fits, members, value))
    return True


def _is_within(interval: Interval, value: float) -> bool:
    return (
        (interval.ge is None or value >= interval.ge)
        and (interval.gt is None or value > interval.gt)
        and (interval.le is None or value <= interval.le)
        and (interval.lt is None or value < interval.lt)
    )


def _is_sequence(base: Any) -> bool:
    return get_origin(base) in (tuple, list, Sequence)


def parse(cls: type, values: Any, path: str = "config", partial: bool = False) -> Any:
    """Returns a dataclass with its fields set from `values`; see `convert`. A field with a default is optional."""
    values, types_of, parsed = _group(values, path), field_types(cls), {}
    for name in values:
        if name not in types_of:
            raise ValueError(f"{join_path(path, name)} is not a field{nearest(str(name), types_of)}")
    for field in dataclasses.fields(cls):
        annotation = types_of[field.name]
        if field.name in values:
            parsed[field.name] = convert(annotation, values[field.name], f"{path}.{field.name}", partial)
        elif not is_required(field):
            continue
        elif partial:
            parsed[field.name] = None
        elif dataclasses.is_dataclass(plain(annotation)) and metadata(annotation, Options) is None:
            parsed[field.name] = parse(plain(annotation), {}, f"{path}.{field.name}")  # names its first field
        else:
            raise ValueError(f"{path}.{field.name} is missing")
    return cls(**parsed)


def field_types(cls: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields by name, with their metadata."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def is_required(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a parsed dataclass as nested dicts, without fields that are None."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            values[field.name] = _to_plain(value)
    return values


def _to_plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return {name: _to_plain(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _choice(options: Options, value: Any, path: str) -> Choice:
    values = dict(_group(value, path))
    name = values.pop("name", None) if options.names else ""
    if not isinstance(name, str):
        raise ValueError(f"{path}.name is missing" if name is None else f"{path}.name={name!r} must be text")
    known = options.of(name)
    for key in values:
        if key not in known:
            raise ValueError(not_an_option(options, name, known, join_path(path, key), key))
    with_defaults = {key: as_tuple(option.default) for key, option in known.items()} | values
    return Choice(
        name, {key: convert(known[key].annotation, item, f"{path}.{key}") for key, item in with_defaults.items()}
    )


def join_path(path: str, name: object) -> str:
    """Returns the dotted path of a member of a group; a name that no field has may hold line breaks."""
    return f"{path}.{printable(str(name))}"


def not_an_option(options: Options, name: str, known: Iterable[str], path: str, option: str) -> str:
    """Returns the error message for an option that a loss or a model does not have."""
    of, known = f"the {options.noun} {name}".rstrip(), list(known)
    hint = nearest(option, known)
    return f"{path} is not an option of {of}; it has {', '.join(known) or 'none'}{hint}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean ...?" for a misspelt name, or "" if no name is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _nearest_choice(base: Any, value: Any) -> str:
    return nearest(value, map(str, get_args(base))) if get_origin(base) is Literal and isinstance(value, str) else ""


def _group(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}={value!r} must be a group of fields")
    return value


def check_plain(values: Any, path: str = "config") -> None:
    """Raises ValueError for values that would not survive a round trip through config.json."""
    if isinstance(values, Mapping):
        for name, item in values.items():
            check_plain(item, join_path(path, name))
    elif isinstance(values, list | tuple):
        for item in values:
            check_plain(item, path)
    elif not isinstance(values, str | bool | int | float | None):
        raise ValueError(f"{path} is a {type(values).__name__}; a configuration holds text, numbers and lists")
    elif isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{path}={values} is no finite number; give one")

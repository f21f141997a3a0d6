"""Configurations: parsing, completion of saved ones from earlier revisions, and overrides."""

import copy
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dim_jax.runs import fields, files
from dim_jax.runs.fields import Added, Options
from dim_jax.runs.schema import CONFIGS, GENERATORS, ClassifierConfig, DiffusionConfig, ExperimentConfig, GanConfig

FILE_NAME = "config.json"
# Up to revision 4 every configuration held these options, whichever loss it named.
EARLIER_LOSS_OPTIONS = {
    "alpha0": 0.5, "beta0": 3.0, "m": 4.0, "adaptive": 1.0, "tau": 1.0, "label_smoothing": 0.0, "gamma": 2.0,
    "effective_number_beta": 0.9999, "max_margin": 0.5, "scale": 1.0, "reweight_from": 0.8, "keep_share": 0.7,
    "metric_weight": 1.0,
}  # fmt: skip

RunConfig = ClassifierConfig | GanConfig | DiffusionConfig  # of a network's run
Config = RunConfig | ExperimentConfig
ConfigT = TypeVar("ConfigT", bound=Config)


def parse_config(config: Mapping[str, Any] | Config) -> Config:
    """Returns a configuration with its fields as attributes; a parsed configuration is returned unchanged.

    Args:
      config: nested dicts, as returned by a file in configs/. Options of its loss or model that are not set get their
        defaults.

    Raises:
      ValueError: a field is missing, unknown or out of range, or values are incompatible.
    """
    if not isinstance(config, Mapping):
        return config
    fields.check_plain(config)
    parsed = fields.parse(CONFIGS[trainer_of(config)], config)
    parsed.check()
    return parsed


def trainer_of(config: Mapping[str, Any]) -> str:
    """Returns the trainer that a configuration names; raises ValueError if there is no such trainer."""
    trainer = config.get("trainer")
    if not isinstance(trainer, str) or trainer not in CONFIGS:
        raise ValueError(f"config.trainer={trainer!r} is not a trainer; choose one of {', '.join(CONFIGS)}")
    return trainer


def read_config(workdir: str | Path, *trainers: str) -> Any:
    """Returns the configuration of a run directory, a RunConfig. Training fields that an imported run lacks are None.

    Args:
      trainers: expected trainers, of "classifier", "gan" and "diffusion"; none for any.

    Raises:
      FileNotFoundError: `workdir` holds no run.
      ValueError: it is the run of another trainer, or its config.json is broken.
    """
    path = Path(workdir) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run (no {FILE_NAME}); train one with python -m dim_jax.train, or import one with "
            "python -m dim_jax.interop.convert"
        )
    config = read_saved(path)
    name = config.get("trainer")
    if name == "ensemble":
        raise ValueError(f"{workdir} is an ensemble, and a single network is needed; give the --workdir of a member")
    expected_trainers = trainers or ("classifier", *GENERATORS)
    if name not in expected_trainers:
        expected = " or ".join(CONFIGS[trainer].NOUN for trainer in expected_trainers)
        noun = CONFIGS[name].NOUN if name in tuple(CONFIGS) else f"a {name}"
        raise ValueError(f"{workdir} is the run of {noun}, not of {expected}; give the --workdir of one")
    cls, names = CONFIGS[name], set(all_names(config))
    try:
        for field in cls.NEEDED:
            if field not in names:
                raise ValueError(f"config.{field} is missing")
        return fields.parse(cls, config, partial=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore the file") from None


def all_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted names of the fields and groups of a nested configuration."""
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from all_names(value, f"{prefix}{name}.")


def read_saved(path: str | Path) -> dict[str, Any]:
    """Reads a config.json and completes it; see `complete`.

    Losses, models and augmentations named by an import path are imported from Python's search path, but never from
    the run directory itself, so that opening a run cannot execute code that came with it.

    Raises:
      ValueError: the file is broken, or names code in the run directory.
    """
    config = files.read_object(Path(path))
    for name in _import_paths(config):
        spec = importlib.util.find_spec(name.split(":")[0].split(".")[0] or "?")
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        folder = Path(path).parent.resolve()
        if any(Path(place).resolve().is_relative_to(folder) for place in places if place):
            raise ValueError(f"{path}: {name!r} is code in the run directory, which is not run; install it elsewhere")
    return complete(config)


def _import_paths(values: Any) -> Iterator[str]:
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if key in ("name", "function") and isinstance(value, str) and ":" in value:
            yield value
        yield from _import_paths(value)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved configuration in the form of the current revision.

    Fields added in a later revision get the value that reproduces earlier runs. Options of losses other than the
    chosen one, which configurations once held, are removed; missing options get their defaults. All other fields are
    unchanged.
    """
    trainer = config.get("trainer")
    cls = CONFIGS.get(trainer) if isinstance(trainer, str) else None
    return files.to_json(_completed(cls, config)) if cls else copy.deepcopy(dict(config))


def _completed(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(config)
    for name, annotation in fields.field_types(cls).items():
        added, options = fields.metadata(annotation, Added), fields.metadata(annotation, Options)
        if added is not None:
            values.setdefault(name, added.before)
        if isinstance(values.get(name), Mapping):
            if options is not None:
                values[name] = _with_own_options(options, values[name])
            elif dataclasses.is_dataclass(fields.plain(annotation)):
                values[name] = _completed(fields.plain(annotation), values[name])
    return values


def _with_own_options(options: Options, values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("name") if options.names else ""
    try:
        known = options.of(name) if isinstance(name, str) else {}
    except ValueError:  # reported by the parser
        return dict(values)
    is_earlier = {key for key in EARLIER_LOSS_OPTIONS if options.noun == "loss" and key not in known}
    defaults = {key: option.default for key, option in known.items()}
    return defaults | {key: value for key, value in values.items() if key not in is_earlier}


def choose(options: Options, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the group of a loss or model after choosing another one by name, with all of its options.

    Options that both have keep their value. For models only values other than the default are kept, since defaults
    are specific to a model, while an option of several losses means the same in each of them. Values of the wrong type
    or out of range are dropped.

    Raises:
      ValueError: there is no loss or model `name`.
    """
    known, group = options.of(name), dict(values)
    current = group.pop("name", name)
    if current != name:
        own = {key: fields.as_tuple(option.default) for key, option in options.of(current).items()}
        group = {
            key: value
            for key, value in group.items()
            if key in known
            and fields.fits(known[key].annotation, value)
            and (options.noun == "loss" or fields.as_tuple(value) != own.get(key))
        }
    defaults = {key: fields.as_tuple(option.default) for key, option in known.items()}
    return {**({"name": name} if options.names else {}), **defaults, **group}


def option_groups(cls: type, prefix: str = "") -> Iterator[tuple[str, Options]]:
    """Yields (dotted name, its Options) of the groups of a schema whose fields depend on a chosen loss or model."""
    for name, annotation in fields.field_types(cls).items():
        if (options := fields.metadata(annotation, Options)) is not None:
            yield f"{prefix}{name}", options
        elif dataclasses.is_dataclass(fields.plain(annotation)):
            yield from option_groups(fields.plain(annotation), f"{prefix}{name}.")


def override(config: ConfigT, settings: Sequence[tuple[str, Any]]) -> ConfigT:
    """Returns a configuration with some fields set, each by its dotted name.

    Choices of a loss or model are applied first; see `choose`. The compatibility of values is not checked.

    Raises:
      ValueError: there is no such field, or the loss or model has no such option.
    """
    values, groups = fields.to_dict(config), dict(option_groups(type(config)))
    choices = {name: value for name, value in settings if name.removesuffix(".name") in groups}
    for name, choice in choices.items():
        group = name.removesuffix(".name")
        values[group] = choose(groups[group], values[group], choice)
    for name, value in settings:
        *path, last = name.split(".")
        place: Any = values
        for part in path:
            place = place.get(part, {}) if isinstance(place, Mapping) else {}
        if last not in place:
            group = ".".join(path)
            if group in groups:
                own = [key for key in place if key != "name"]
                raise ValueError(fields.not_an_option(groups[group], place.get("name", ""), own, f"{name!r}", last))
            hint = fields.nearest(name, all_names(values))
            raise ValueError(f"{name!r} is not a field of the {config.trainer}'s configuration{hint}")
        if name not in choices:
            place[last] = value
    return fields.parse(type(config), values)

"""The command line of `train`: a configuration file or a saved run, and overrides of its fields."""

import importlib.machinery
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

import dim_jax
from dim_jax.runs import configuration, fields, files
from dim_jax.runs.schema import CONFIGS

HINT = "python -m dim_jax.train --help lists the options"


class Options(NamedTuple):
    """The command line of `train`.

    Attributes:
      config: the configuration with its overrides.
      run: the run directory.
      dry_run: whether to print what would be done, and start nothing.
      profile: number of dispatches to trace.
      data_root: where the images are now; None if they were not moved.
      list_tasks: whether to print the tasks of an experiment, and start nothing.
      task: number of the only task of an experiment to do; None for all.
      is_brief: whether one bar is to replace what the stages of an experiment print.
    """

    config: dict[str, Any]
    run: Path
    dry_run: bool
    profile: int
    data_root: str | None
    list_tasks: bool
    task: int | None
    is_brief: bool


def parse_flags(arguments: Sequence[str]) -> Options:
    """Parses the command line of `train`.

    Raises:
      ValueError: an option, field or value is wrong.
      FileNotFoundError: the configuration or the run directory does not exist.
    """
    config = _read_config(arguments)
    # --config has been read; only overrides of its fields remain.
    arguments = list(_without("config", arguments))
    _choose(config, arguments)
    _check_names(config, arguments)
    # Local flag values: global ones could clash with those of other libraries.
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
    flags.DEFINE_bool("dry-run", False, "print and start nothing", flag_values=values)
    flags.DEFINE_integer("profile", 0, "dispatches to trace", lower_bound=0, flag_values=values)
    flags.DEFINE_string("data-root", None, "where the images are now", flag_values=values)
    flags.DEFINE_bool("list-tasks", False, "print the tasks of an experiment and start nothing", flag_values=values)
    flags.DEFINE_integer("task", None, "the only task to do", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("brief", False, "one bar", flag_values=values)
    flags.DEFINE_bool("debug", False, "full trace of an error", flag_values=values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        rest = values(["train", *arguments])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{_first_sentence(error)}; {HINT}") from error
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option; options are written --name=value")
    if not values["workdir"].value:
        raise ValueError("--workdir is missing; give the run directory, for example --workdir=runs/a")
    fields.check_plain(config.to_dict())
    run = Path(values["workdir"].value)
    options = (values[name].value for name in ("dry-run", "profile", "data-root", "list-tasks", "task", "brief"))
    parsed = Options(files.to_json(config.to_dict()), run, *options)
    if parsed.list_tasks or parsed.task is not None:
        _check_tasks(parsed)
    if parsed.is_brief and parsed.config.get("trainer") != "experiment":
        raise ValueError("--brief is for experiments, which have many stages; leave it out")
    return parsed


def _check_tasks(options: Options) -> None:
    """Raises ValueError if --list-tasks or --task does not go with the configuration or another option."""
    option = "--list-tasks" if options.list_tasks else f"--task={options.task}"
    if options.config.get("trainer") != "experiment":
        raise ValueError(f"{option} is for experiments, and this configuration is of one run; leave it out")
    others = {
        f"--task={options.task}": options.list_tasks and options.task is not None,
        "--dry-run": options.dry_run and not options.list_tasks,
        "--profile": options.profile > 0,
        "--data-root": options.data_root is not None,
    }
    for other in filter(others.get, others):
        raise ValueError(f"{option} does not go with {other}; leave out one of them")


def packaged_configs() -> Path:
    """Returns the folder of the bundled configurations, in an installed package or in configs/ of a checkout."""
    package = Path(dim_jax.__file__).parent
    installed = package / "configs"
    return installed if (installed / "classifier.py").is_file() else package.parent / "configs"


class _LoaderWithoutCache(importlib.machinery.SourceFileLoader):
    """Loads a module and writes no __pycache__ beside it: the folder of a configuration is its user's."""

    def set_data(self, *_: object, **__: object) -> None:
        pass


def load_file(value: str) -> ConfigDict:
    """Returns the ConfigDict that `get_config` of a configuration file returns.

    Args:
      value: FILE or FILE:VARIANT, where FILE may be the bare name of a bundled configuration.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be run, or does not return a ConfigDict.
    """
    name, _, variant = value.partition(":")
    path = Path(name)
    if not path.is_file():
        path = packaged_configs() / f"{name}.py"
        if not name.isidentifier() or not path.is_file():
            ready = ", ".join(sorted(path.stem for path in packaged_configs().glob("[a-z]*.py")))
            raise FileNotFoundError(f"--config={value}: there is no file {name!r}; the ready ones are {ready}")
    module_name = f"config_{path.stem}"
    if path.suffix != ".py":
        raise ValueError(f"--config={value} is no Python file; its name must end in .py")
    loader = _LoaderWithoutCache(module_name, str(path))
    module = types.ModuleType(module_name)
    module.__file__ = str(path)
    try:
        sys.modules[module_name] = module
        loader.exec_module(module)
        config = module.get_config(variant) if ":" in value else module.get_config()
    except ValueError as error:
        is_its_own = traceback.extract_tb(error.__traceback__)[-1].filename == str(path)
        raise ValueError(f"{_first_sentence(error)}; {HINT}" if is_its_own else _broken(value, error)) from error
    except Exception as error:
        # A configuration file is a program and may raise anything.
        raise ValueError(_broken(value, error)) from error
    finally:
        sys.modules.pop(module_name, None)
    if not isinstance(config, ConfigDict):
        raise ValueError(f"--config={value}: get_config returns a {type(config).__name__}, not a ConfigDict; fix it")
    return config


def _broken(value: str, error: Exception) -> str:
    return f"--config={value}: {type(error).__name__}: {_first_sentence(error)}; fix it"


def _read_config(arguments: Sequence[str]) -> ConfigDict:
    """Returns the configuration that --config names, or that of the run in --workdir."""
    values = list(_values_of("config", arguments))
    return load_file(values[-1]) if values else _saved_config(arguments)


def _saved_config(arguments: Sequence[str]) -> ConfigDict:
    for value in _values_of("workdir", arguments):
        path = Path(value) / configuration.FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{value} holds no run to resume (no config.json); give --config=FILE")
        saved = configuration.read_saved(path)
        if saved.get("trainer") == "ensemble":
            raise ValueError(f"{value} is an ensemble, which is not trained; train its members and make it again")
        if "optimizer" not in saved and saved.get("trainer") != "experiment":
            raise ValueError(f"{value} was imported for use alone; import it again with --config=FILE and --data=DATA")
        if not isinstance(saved.get("trainer"), str):
            raise ValueError(f"{path} names no trainer; restore the file")
        return ConfigDict(fields.as_tuple(saved))
    raise ValueError("--config is missing; give a configuration, for example --config=configs/classifier.py")


def _choose(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Applies the choices of losses and models on the command line, and adds all options of the chosen ones."""
    for group, options in _option_groups(config).items():
        place, last = _parent(config, group)
        values = place.get(last)
        if isinstance(values, ConfigDict) and isinstance(current := values.get("name", ""), str):
            named = [current, *_values_of(f"config.{group}.name", arguments)]
            with place.unlocked():
                place[last] = ConfigDict(configuration.choose(options, values.to_dict(), named[-1]))


def _parent(config: ConfigDict, group: str) -> tuple[Any, str]:
    """Returns what holds a group of fields, given by its dotted name, and the last part of that name."""
    *path, last = group.split(".")
    place: Any = config
    for part in path:
        place = place.get(part, {})
    return place, last


def _option_groups(config: ConfigDict) -> dict[str, fields.Options]:
    trainer = config.get("trainer")
    return dict(configuration.option_groups(CONFIGS[trainer])) if trainer in tuple(CONFIGS) else {}


def _check_names(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Raises ValueError for an override of an unknown field, with the closest known name."""
    known, groups = set(configuration.all_names(config.to_dict())), _option_groups(config)
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        group, _, last = name.removeprefix("config.").rpartition(".")
        if name.removeprefix("config.") in known:
            continue
        if group in groups:
            place, last_group = _parent(config, group)
            chosen = place[last_group]
            own = [option for option in chosen if option != "name"]
            raise ValueError(fields.not_an_option(groups[group], chosen.get("name", ""), own, name, last))
        hint = fields.nearest(name, (f"config.{field}" for field in known))
        raise ValueError(f"unknown configuration field {name}{hint or f'; {HINT}'}")


def _values_of(name: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yields the values of `--name=VALUE` and `--name VALUE` without absl, whose flags are not defined yet."""
    for number, argument in enumerate(arguments):
        if argument.startswith("-") and argument.lstrip("-").partition("=")[0] == name:
            yield argument.partition("=")[2] if "=" in argument else "".join(arguments[number + 1 : number + 2])


def _without(name: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yields the arguments except `--name=VALUE` and `--name VALUE`."""
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument.lstrip("-").partition("=")[0] != name:
            yield argument
        elif "=" not in argument:
            next(rest, None)


def _first_sentence(error: Exception) -> str:
    # str() of a KeyError is quoted, with escaped newlines.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, KeyError | AttributeError):
        return "unknown configuration field " + " ".join(lines)
    return lines[0].rstrip(".") if lines else type(error).__name__

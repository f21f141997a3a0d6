"""The configuration that the command line of `train` gives: a file or a saved run, and its overrides."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from dim_jax.runs import configuration, files
from dim_jax.runs.added_fields import complete


def parse_flags(arguments: Sequence[str]) -> tuple[dict[str, Any], Path, bool, int]:
    """Returns the configuration with its overrides, the run directory, whether to write nothing, dispatches to trace.

    Raises:
      ValueError: an option, field or value is wrong.
      FileNotFoundError: the configuration or the run directory does not exist.
    """
    # Flags of this call alone: module-wide ones would meet those of other programs.
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
    flags.DEFINE_bool("dry-run", False, "print and start nothing", flag_values=values)
    flags.DEFINE_integer("profile", 0, "dispatches to trace", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("debug", False, "full trace of an error", flag_values=values)
    named = [argument.split("=", 1)[0].lstrip("-") for argument in arguments if argument.startswith("-")]
    if "config" in named:
        _check_config_file(arguments)
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(arguments))
    else:
        saved = _saved_config(arguments)
        config_flags.DEFINE_config_dict("config", saved, flag_values=values, sys_argv=list(arguments))
    try:
        rest = values(["train", *arguments])[1:]
        config = values["config"].value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{_first_sentence(error)}; python -m dim_jax.train --help lists the options") from error
    except Exception as error:
        # A configuration file is a program: whatever it raises, it is the file that is to be mended.
        raise ValueError(f"{_file(arguments)}: {type(error).__name__}: {_first_sentence(error)}; mend it") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{_file(arguments)}: get_config returns a {type(config).__name__} and no ConfigDict; mend it")
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option; options are written --name=value")
    if not values["workdir"].value:
        raise ValueError("--workdir is missing; give the run directory, for example --workdir=runs/a")
    configuration.check_plain(config.to_dict())
    run = Path(values["workdir"].value)
    return files.to_json(config.to_dict()), run, values["dry-run"].value, values["profile"].value


def _file(arguments: Sequence[str]) -> str:
    """Returns how the configuration is called on the command line."""
    return "".join(f"--config={value}" for value in _values_of("config", arguments))


def _check_config_file(arguments: Sequence[str]) -> None:
    for value in _values_of("config", arguments):
        path = value.split(":", 1)[0]
        if not Path(path).is_file():
            raise FileNotFoundError(f"--config={value}: there is no file {path!r}; configs/ holds the ready ones")


def _saved_config(arguments: Sequence[str]) -> ConfigDict:
    for value in _values_of("workdir", arguments):
        path = Path(value) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{value} holds no run to resume (no config.json); give --config=FILE")
        saved = files.read_object(path)
        if "optimizer" not in saved:
            raise ValueError(f"{value} was imported for use alone; import it again with --config=FILE and --data=DATA")
        if not isinstance(saved.get("trainer"), str):
            raise ValueError(f"{path} names no trainer; restore the file")
        return ConfigDict(complete(saved))
    raise ValueError("--config is missing; give a configuration, for example --config=configs/classifier.py")


def _values_of(name: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yields what `--name=VALUE` or `--name VALUE` gives, before absl has parsed anything."""
    for number, argument in enumerate(arguments):
        if argument.lstrip("-").split("=", 1)[0] == name:
            yield argument.split("=", 1)[1] if "=" in argument else "".join(arguments[number + 1 : number + 2])


def _first_sentence(error: Exception) -> str:
    # A KeyError prints its message quoted, with the line ends spelled out.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "parsing config file" in lines[0]:
        # What the file itself raised comes last, after the trace.
        return lines[-1].removeprefix("ValueError: ")
    if isinstance(error, KeyError | AttributeError):
        return "unknown configuration field " + " ".join(lines)
    return lines[0].rstrip(".") if lines else type(error).__name__

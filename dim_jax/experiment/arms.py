"""The arms of an experiment, read from its configuration: what each sets, which images it adds, what it tunes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dim_jax.cli.command_line import comma_separated
from dim_jax.runs.workdir import flatten_config

COPIES, UNSELECTED = "copies", "_unselected"
BALANCED = -1  # as many added images as make all classes equal
TUNABLE = ("count", "tau")

Config = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to train a classifier.

    Attributes:
      name: identifies it.
      title: what tables call it.
      settings: fields of the classifier's configuration that it sets, as (dotted name, value).
      added: where more images come from: a generator's name (selected images), that name with "_unselected" behind it,
        "copies" (real training images of the minority classes once more), or "".
      count: how many images it adds over all minority classes, or BALANCED, which those "_unselected" can't be.
      tau: strength of post-hoc logit adjustment; 0: none.
      tuned: dotted name of what every fold's validation images choose; "": nothing.
      values: what it may be.
    """

    name: str
    title: str
    settings: tuple[tuple[str, Any], ...] = ()
    added: str = ""
    count: int = 0
    tau: float = 0.0
    tuned: str = ""
    values: tuple[Any, ...] = ()

    @property
    def generator(self) -> str:
        """The generator whose images it adds, or ""."""
        return "" if self.added == COPIES else self.added.removesuffix(UNSELECTED)

    @property
    def is_unselected(self) -> bool:
        """Whether it adds a generator's images as they were drawn."""
        return self.added.endswith(UNSELECTED)

    def candidates(self) -> list["Arm"]:
        """Returns the arm with each of the values it may have, none of them tuned; itself where nothing is."""
        return [self.with_value(value) for value in self.values] if self.tuned else [self]

    def with_value(self, value: Any) -> "Arm":
        """Returns the arm with the tuned field set."""
        name = f"{self.name}_{str(value).replace('.', '_')}"
        fixed = replace(self, name=name, title=f"{self.title}, {self.tuned.split('.')[-1]} = {value:g}")
        fixed = replace(fixed, tuned="", values=())
        if self.tuned in TUNABLE:
            return replace(fixed, **{self.tuned: value})
        return replace(fixed, settings=(*self.settings, (self.tuned.removeprefix("set."), value)))


@dataclass(frozen=True)
class Question:
    """A contrast of two arms: does `arm` do better than `than`?

    Attributes:
      name: identifies it.
      text: the question.
      subject: begins the sentence that answers it.
      arm, than: names of the arms.
    """

    name: str
    text: str
    subject: str
    arm: str
    than: str


def read_arms(config: Config) -> dict[str, Arm]:
    """Returns the arms of an experiment's configuration by name.

    Raises:
      ValueError: an arm sets a field that there is not, adds images from nowhere, or tunes what cannot be tuned.
    """
    found = {name: _read_arm(name, config["arms"][name], config) for name in _ordered(config["arms"], config)}
    if not found:
        raise ValueError("config.arms is empty; an experiment needs at least one arm")
    judge = config["pool"]["judge"]
    if any(arm.generator for arm in found.values()) and (
        judge not in found or found[judge].added or found[judge].tuned
    ):
        raise ValueError(
            f"config.pool.judge={judge!r} must be an arm that adds no images and tunes nothing: it says whether a "
            "generated image is of its class"
        )
    return found


def _read_arm(name: str, fields: Mapping[str, Any], config: Config) -> Arm:
    where = f"config.arms.{name}"
    settings = flatten_config(fields.get("set") or {})
    added, count = fields.get("added", ""), fields.get("count", 0)
    tune = fields.get("tune") or {}
    arm = Arm(
        name, fields.get("title", name), tuple(settings.items()), added, count, fields.get("tau", 0.0),
        tune.get("field", ""), tuple(tune.get("values", ())),
    )  # fmt: skip
    names = [*settings, *([arm.tuned.removeprefix("set.")] if arm.tuned and arm.tuned not in TUNABLE else [])]
    known = flatten_config(config["classifier"])
    for field in names:
        if field not in known:
            raise ValueError(f"{where}: {field!r} is not a field of the classifier's configuration")
    sources = [COPIES, *(source for name in config["generators"] for source in (name, name + UNSELECTED))]
    if added and added not in sources:
        raise ValueError(f"{where}.added={added!r} is unknown; choose one of {', '.join(sources)}")
    if bool(added) != (count != 0 or arm.tuned == "count") or count < BALANCED:
        raise ValueError(f"{where}: added={added!r} and count={count} do not go together; give both or neither")
    if arm.is_unselected and BALANCED in (arm.values if arm.tuned == "count" else [count]):
        raise ValueError(f"{where}: only selected images and copies balance the classes; give {added} a number of them")
    if arm.tuned and len(arm.values) < 2:
        raise ValueError(f"{where}.tune: give at least two values for {arm.tuned}")
    if not arm.tau >= 0:
        raise ValueError(f"{where}.tau={arm.tau} must be at least 0")
    return arm


def read_questions(config: Config, arms: Mapping[str, Arm]) -> dict[str, Question]:
    """Returns the questions of an experiment's configuration by name.

    Raises:
      ValueError: one is about an arm that there is not, or there is no question of the primary one's name.
    """
    found = {}
    for name in _ordered(config["questions"], config):
        fields = config["questions"][name]
        for side in ("arm", "than"):
            if fields[side] not in arms:
                raise ValueError(f"config.questions.{name}.{side}={fields[side]!r} is not an arm")
        found[name] = Question(name, **{key: fields[key] for key in ("text", "subject", "arm", "than")})
    if config["primary"] and config["primary"] not in found:
        raise ValueError(f"config.primary={config['primary']!r} is not one of the questions {', '.join(found)}")
    return found


def _ordered(names: Iterable[str], config: Config) -> list[str]:
    """Returns names in the order of `config.order`, others behind."""
    order = list(config["order"])
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def chosen_names(config: Config, arms: Mapping[str, Arm]) -> list[str]:
    """Returns the names of the arms to train: all, or those of `config.only`.

    Raises:
      ValueError: one of them is not an arm.
    """
    names = comma_separated(config["only"]) or list(arms)
    for name in names:
        if name not in arms:
            raise ValueError(f"config.only names {name!r}, which is not an arm; there are {', '.join(arms)}")
    return names


def with_settings(config: Mapping[str, Any], settings: Sequence[tuple[str, Any]]) -> Config:
    """Returns a copy of a nested configuration with some fields set, each by its dotted name."""
    copy = {name: with_settings(value, ()) if isinstance(value, Mapping) else value for name, value in config.items()}
    for name, value in settings:
        *path, last = name.split(".")
        place = copy
        for part in path:
            place = place[part]
        place[last] = value
    return copy

"""The arms of an experiment, read from its configuration.

Most are trained: settings, added images and tuned fields. Others train nothing of their own: an ensemble of arms, or
the arm of several that validation images prefer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dim_jax.cli.command_line import comma_separated
from dim_jax.runs.configuration import override
from dim_jax.runs.schema import ArmFields, ExperimentConfig
from dim_jax.runs.workdir import flatten_config

COPIES, SHRUNK_COPIES, UNSELECTED = "copies", "shrunk_copies", "_unselected"
BALANCED = -1  # as many added images as make all classes equal
TUNABLE = ("count", "share", "tau")


@dataclass(frozen=True)
class Arm:
    """One way to train a classifier, or to combine or choose among other arms.

    Attributes:
      name: identifies it.
      title: name of the arm in tables.
      settings: fields of the classifier's configuration that it sets, as (dotted name, value).
      added: source of the added images: a generator's name (selected images), that name followed by "_unselected",
        "copies" (real training images of the minority classes once more), "shrunk_copies" (the same ones shrunk to the
        size of the generators' images), or "".
      count: number of images it adds over all minority classes, or BALANCED; 0 if `share` says how many.
      share: number of images it adds to each minority class, as a share of the real training images of the class.
      tau: strength of post-hoc logit adjustment; 0: none.
      tuned: dotted name of the field that is tuned on the validation images of every fold; "": none.
      values: candidate values of that field.
      start: the arm whose run of the same fold and seed gives the initial weights; "": none.
      members: of an ensemble, the arms whose probabilities are averaged.
      choices: of a choice, the arms of which one is chosen for every fold; see experiment.choice.
      adjust: whether the logits are adjusted after training, as chosen on the validation images of each fold.
      seeds: how many of the experiment's seeds it is trained with; 0: all.
    """

    name: str
    title: str
    settings: tuple[tuple[str, Any], ...] = ()
    added: str = ""
    count: int = 0
    share: float = 0.0
    tau: float = 0.0
    tuned: str = ""
    values: tuple[Any, ...] = ()
    start: str = ""
    members: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    adjust: bool = False
    seeds: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The arms that it averages or chooses among; () if it is trained."""
        return self.members or self.choices

    @property
    def generator(self) -> str:
        """The generator whose images it adds, or ""."""
        return "" if self.is_copies else self.added.removesuffix(UNSELECTED)

    @property
    def is_copies(self) -> bool:
        """Whether it adds real training images once more."""
        return self.added in (COPIES, SHRUNK_COPIES)

    @property
    def is_unselected(self) -> bool:
        """Whether it adds a generator's images without selection."""
        return self.added.endswith(UNSELECTED)

    @property
    def own_list(self) -> str:
        """Name of its list with a number of images per class; "" if it takes the first images of a common list."""
        if self.share:
            return f"share_{self.share:g}".replace(".", "_")
        return "balanced" if self.count == BALANCED else ""

    @property
    def amount(self) -> float:
        """The count, or the share, of the images it adds; identifies predictions in archives."""
        return float(self.share) or self.count

    def candidates(self) -> list["Arm"]:
        """Returns one arm per candidate value, with nothing left to tune; the arm itself if it tunes nothing."""
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


def read_arms(config: ExperimentConfig) -> dict[str, Arm]:
    """Returns the arms of an experiment by name, in the order of `config.order`.

    Raises:
      ValueError: an arm sets a field that does not exist, adds images from an unknown source, or tunes something that
        cannot be tuned.
    """
    arms = {name: _read_arm(name, config.arms[name], config) for name in _ordered(config.arms, config)}
    if not arms:
        raise ValueError("config.arms is empty; an experiment needs at least one arm")
    for arm in arms.values():
        _check_references(arm, arms)
    judge = config.pool.judge
    if any(arm.generator for arm in arms.values()) and (judge not in arms or arms[judge].added or arms[judge].tuned):
        raise ValueError(
            f"config.pool.judge={judge!r} must be an arm that adds no images and tunes nothing: it says whether a "
            "generated image is of its class"
        )
    return arms


def _read_arm(name: str, fields: ArmFields, config: ExperimentConfig) -> Arm:
    where = f"config.arms.{name}"
    settings, added, count, share = tuple(flatten_config(fields.set).items()), fields.added, fields.count, fields.share
    title, tune = fields.title or name, fields.tune
    arm = Arm(
        name, title, settings, added, count, share, fields.tau, tune.field, tune.values, fields.start, fields.members,
        fields.choices, fields.adjust, fields.seeds,
    )  # fmt: skip
    if arm.parts and (
        settings or added or arm.amount or arm.tau or arm.tuned or arm.start or (arm.members and arm.choices)
    ):
        raise ValueError(f"{where}: an arm with members or choices trains nothing; leave its other fields unset")
    if arm.adjust and (arm.tau or arm.tuned == "tau"):
        raise ValueError(f"{where}: adjust chooses tau in every fold; leave tau unset")
    sources = [COPIES, SHRUNK_COPIES, *(source for name in config.generators for source in (name, name + UNSELECTED))]
    if added and added not in sources:
        raise ValueError(f"{where}.added={added!r} is unknown; choose one of {', '.join(sources)}")
    amounts = [name for name in ("count", "share") if getattr(arm, name) or arm.tuned == name]
    if len(amounts) != bool(added) or count < BALANCED:
        raise ValueError(
            f"{where}: added={added!r}, count={count} and share={share:g} do not go together; give what to add and one "
            "of the two numbers, or none of the three"
        )
    if arm.is_unselected and any(candidate.own_list for candidate in arm.candidates()):
        raise ValueError(f"{where}: only selected images and copies have a number per class; give {added} a count")
    if arm.tuned and len(arm.values) < 2:
        raise ValueError(f"{where}.tune: give at least two values for {arm.tuned}")
    try:
        for candidate in arm.candidates():
            override(config.classifier, candidate.settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return arm


def _check_references(arm: Arm, arms: Mapping[str, Arm]) -> None:
    """Raises ValueError unless the arms that an arm is made of exist, come before it and need no further choice."""
    earlier = {name: other for name, other in arms.items() if list(arms).index(name) < list(arms).index(arm.name)}
    for field, names in (("start", filter(None, [arm.start])), ("members", arm.members), ("choices", arm.choices)):
        for name in names:
            where = f"config.arms.{arm.name}.{field} names {name!r}"
            if name not in earlier:
                raise ValueError(f"{where}, which is not an arm before it in config.order")
            other = earlier[name]
            if other.tuned or other.tau or other.adjust:
                raise ValueError(f"{where}, which tunes or adjusts something; name an arm as it is trained")
            if other.parts and not (field == "members" and other.choices):
                raise ValueError(f"{where}, which is not trained itself; name one that is")


def read_questions(config: ExperimentConfig, arms: Mapping[str, Arm]) -> dict[str, Question]:
    """Returns the questions of an experiment by name, in the order of `config.order`.

    Raises:
      ValueError: a question names an arm that does not exist, or the primary question does not exist.
    """
    questions = {}
    for name in _ordered(config.questions, config):
        question = Question(name, **vars(config.questions[name]))
        for side in ("arm", "than"):
            if getattr(question, side) not in arms:
                raise ValueError(f"config.questions.{name}.{side}={getattr(question, side)!r} is not an arm")
        questions[name] = question
    if config.primary and config.primary not in questions:
        raise ValueError(f"config.primary={config.primary!r} is not one of the questions {', '.join(questions)}")
    return questions


def _ordered(names: Iterable[str], config: ExperimentConfig) -> list[str]:
    """Returns names in the order of `config.order`, followed by the others in alphabetical order."""
    order = config.order
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def chosen_names(config: ExperimentConfig, arms: Mapping[str, Arm]) -> list[str]:
    """Returns the names of the arms to train: all, or those of `config.only`.

    Raises:
      ValueError: `config.only` names an arm that does not exist.
    """
    names = comma_separated(config.only) or list(arms)
    for name in names:
        if name not in arms:
            raise ValueError(f"config.only names {name!r}, which is not an arm; there are {', '.join(arms)}")
    return names

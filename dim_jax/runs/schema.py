"""Schema of the configurations: type, range or choices of every field, rules between fields, and revisions.

Defaults and a comment for each field are in configs/*.py. A new field is added both there and here, with
`Added(since, before)` so that earlier runs can be resumed. The options of a loss or a model are not listed here: they
are read from its signature. An option added to a loss or a model later must default to the earlier behaviour.

Revisions of the configuration, for `Added`: 1 the first; 2 image statistics, initial weights, reports, gradual
conditioning on labels; 3 experiments archive predictions; 4 learning-rate scaling by batch size; 5 user-defined
augmentations, and only the options of the chosen loss and model; 6 averaged weights of classifiers, mixed examples,
deferred re-balancing, rates and phases of the head, test-time views; 7 the frozen network whose features are
classified, recommended arms of experiments; 8 diffusion models; 9 generated images smaller than the classifier's input,
initial weights of GANs, features of selections and offsets of adjusted arms in experiments; 10 epochs that are as long
as without generated images, a least time between checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from dim_jax import augmentation, losses, models
from dim_jax.models.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, PUBLISHED
from dim_jax.runs import fields
from dim_jax.runs.fields import Added, Choice, Option, Options

MAX_FOLDS = 1000  # as in data/splits.py
OF_IMAGES = ("flip", "rotate", "stain_jitter", "function")  # augmentations that features cannot have
INITIAL_WEIGHTS = ("random", "imagenet")  # or a path
MOST_SAMPLING_STEPS = 10_000
LEAST_AUDITED = (
    10  # generated images of a class; of fewer, copies alone would not be significant (gan/copying_audit.py)
)


def _options(read: Callable[[str], dict[str, tuple[Any, Any]]]) -> Callable[[str], dict[str, Option]]:
    """Returns a reader of options that replaces unsupported type annotations by the type of the default."""

    def options(name: str) -> dict[str, Option]:
        return {
            key: Option(annotation if fields.is_supported(annotation) else fields.type_of(default), default)
            for key, (annotation, default) in read(name).items()
        }

    return options


LOSS = Options("loss", _options(losses.options), tuple(losses.LOSSES))
NETWORK = Options("model", _options(models.classifier_options), tuple(models.CLASSIFIERS))
GENERATOR = Options("generator", _options(lambda name: models.gan_options()))
DENOISER = Options("denoising network", _options(lambda name: models.denoiser_options()))

# Ranges exclude typing errors and infeasible values; sensible combinations are left to the user.
Seed = Annotated[int, Interval(ge=0, le=2**31 - 1)]
BatchSize = Annotated[int, Interval(ge=1, le=2**20)]
Steps = Annotated[int, Interval(ge=1, le=10**9)]
Epochs = Annotated[float, Interval(gt=0, le=1e6)]
Share = Annotated[float, Interval(ge=0, le=1)]
Scale = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True)
class DataFields:
    path: str
    phantom_scale: Scale
    fold: Annotated[int, Interval(ge=0, le=MAX_FOLDS - 1)]
    backend: Literal["tf", "resident"]
    image_size: Annotated[int, Interval(ge=16, le=4096)]
    resize: Literal["squash", "crop", "pad"]
    cache_gib: Annotated[float, Interval(ge=0, le=1e6)]


@dataclass(frozen=True)
class OptimizerFields:
    name: Literal["adam", "rmsprop", "sgd"]
    learning_rate: Annotated[float, Interval(ge=0, le=1e38)]  # training that diverges is reported by the loop
    learning_rate_scaling: Annotated[Literal["none", "linear", "sqrt"], Added(4, before="none")]


@dataclass(frozen=True)
class TrainFields:
    global_batch_size: BatchSize
    steps_per_dispatch: Annotated[int, Interval(ge=1, le=10_000)]
    keep_checkpoints: Annotated[int, Interval(ge=1, le=10_000)]
    checkpoint_seconds_apart: Annotated[float, Interval(ge=0, le=1e6), Added(10, before=0.0)]
    tensorboard: bool
    report: Annotated[bool, Added(2, before=True)]


@dataclass(frozen=True)
class ClassifierData(DataFields):
    backend: Literal["tf", "resident", "features"]
    feature_network: Annotated[str, Added(7, before="efficientnet_lite0")]
    mean: Annotated[tuple[Share, ...], Added(2, before=())]
    std: Annotated[tuple[Share, ...], Added(2, before=())]
    generated: str
    generated_count: Annotated[int, Interval(ge=-1, le=2**31 - 1)]
    generated_weight: Annotated[float, Interval(ge=0, le=1e6)]
    enlarge_generated: Annotated[bool, Added(9, before=False)]
    epoch_of: Annotated[Literal["all", "real"], Added(10, before="all")]
    class_balanced: bool


@dataclass(frozen=True)
class ClassifierAugment:
    flip: bool
    rotate: bool
    stain_jitter: Share
    function: Annotated[str, Added(5, before="")]
    mixing: Annotated[Literal["none", "mixup", "cutmix", "balanced_mixup"], Added(6, before="none")]
    mixing_alpha: Annotated[float, Interval(gt=0, le=100), Added(6, before=0.2)]
    test_time_views: Annotated[bool, Added(6, before=False)]


@dataclass(frozen=True)
class ClassifierOptimizer(OptimizerFields):
    name: Literal["adam", "adamw", "rmsprop", "sgd"]
    reference_batch_size: Annotated[BatchSize, Added(4, before=32)]
    weight_decay: Annotated[float, Interval(ge=0, le=1e3)]
    momentum: Share
    clip_norm: Annotated[float, Interval(ge=0, le=1e9)]
    schedule: Literal["constant", "step", "cosine"]
    warmup_epochs: Annotated[float, Interval(ge=0, le=1e6)]
    decay_epochs: Epochs
    decay_rate: Annotated[float, Interval(gt=0, le=1)]
    backbone_learning_rate_scale: Annotated[Scale, Added(6, before=1.0)]


@dataclass(frozen=True)
class ClassifierTrain(TrainFields):
    num_epochs: Epochs
    eval_batch_size: BatchSize
    eval_every_epochs: Epochs
    checkpoint_every_epochs: Epochs
    best_metric: Literal["macro_f1", "accuracy", "balanced_accuracy", "g_mean", "mcc", "macro_auroc"]
    initial_weights: Annotated[str, Added(2, before="random")]
    head_only_share: Annotated[Share, Added(6, before=0.0)]
    ema_decay: Annotated[float, Interval(ge=0, lt=1), Added(6, before=0.0)]
    rebalance: Annotated[
        Literal["none", "inverse_frequency", "effective_number", "sampling", "logit_offset"], Added(6, before="none")
    ]
    rebalance_from: Annotated[float, Interval(ge=0, lt=1), Added(6, before=0.8)]
    rebalance_tau: Annotated[float, Interval(ge=0, le=100), Added(6, before=1.0)]


@dataclass(frozen=True)
class ClassifierConfig:
    """Configuration of a classifier: configs/classifier.py."""

    NOUN: ClassVar = "a classifier"
    # The fields that every reader of a run needs; an imported run may lack all others.
    NEEDED: ClassVar = (
        "data.path", "data.image_size", "data.resize", "data.fold", "data.backend", "data.cache_gib", "model",
        "train.eval_batch_size", "train.global_batch_size",
    )  # fmt: skip

    trainer: Literal["classifier"]
    seed: Seed
    data: ClassifierData
    augment: ClassifierAugment
    model: Annotated[Choice, NETWORK]
    loss: Annotated[Choice, LOSS]
    optimizer: ClassifierOptimizer
    train: ClassifierTrain
    classes: tuple[str, ...] | None = None  # names of the outputs of a run that was imported without images

    def check(self) -> None:
        """Raises ValueError for incompatible values."""
        data, takes_features = self.data, self.data.backend == "features"
        if takes_features != (self.model.name == "linear"):
            raise ValueError(
                f"config.model.name={self.model.name} and config.data.backend={data.backend} do not fit: linear takes "
                "features, every other model images; --config=configs/classifier.py:linear sets both"
            )
        of_images = [f"config.augment.{name}" for name in OF_IMAGES if getattr(self.augment, name)]
        of_images += ["config.augment.mixing=cutmix"] * (self.augment.mixing == "cutmix")
        of_images += [f"config.data.{name}" for name in ("mean", "std") if getattr(data, name)]
        if takes_features and of_images:
            raise ValueError(
                f"{of_images[0]} changes images, and config.data.backend=features has none; leave it unset"
            )
        network = data.feature_network
        if network not in PUBLISHED and not network.startswith("zoo:"):
            raise ValueError(
                f"config.data.feature_network={network!r} must be one of {', '.join(PUBLISHED)}, or a trained model, "
                f"such as zoo:ebhi-seg{fields.nearest(network, PUBLISHED)}"
            )
        self._check_initial_weights()
        if self.augment.mixing != "none" and not losses.takes_mixed_labels(losses.get_loss(self.loss.name)):
            able = [name for name, loss in losses.LOSSES.items() if losses.takes_mixed_labels(loss)]
            raise ValueError(
                f"config.loss.name={self.loss.name} counts or ranks the examples of a batch by their one label, and "
                f"config.augment.mixing={self.augment.mixing} gives them two; choose {', '.join(able)}"
            )
        if self.train.rebalance == "sampling" and data.class_balanced:
            raise ValueError(
                "config.train.rebalance=sampling draws all classes equally often from a share of the run on, which "
                "config.data.class_balanced does from the start; choose one"
            )
        if self.augment.test_time_views and not (self.augment.flip or self.augment.rotate):
            raise ValueError(
                "config.augment.test_time_views averages over config.augment.flip and .rotate, and both are off"
            )
        if self.augment.function:
            augmentation.get_function(self.augment.function)

    def _check_initial_weights(self) -> None:
        weights, statistics = self.train.initial_weights, (*self.data.mean, *self.data.std)
        if weights not in INITIAL_WEIGHTS and Path(weights).name == weights:
            raise ValueError(
                f"config.train.initial_weights={weights!r} must be one of {', '.join(INITIAL_WEIGHTS)}, or the path of "
                f"a run, such as runs/base{fields.nearest(weights, INITIAL_WEIGHTS)}"
            )
        if weights == "imagenet" and not (
            len(statistics) == 6 and np.allclose(statistics, PIXEL_MEAN + PIXEL_STD, atol=1e-4)
        ):
            raise ValueError(
                f"config.train.initial_weights=imagenet needs config.data.mean={PIXEL_MEAN} and .std={PIXEL_STD}, by "
                "which those weights were trained; --config=configs/classifier.py:finetune sets them"
            )
        if self.train.head_only_share and weights == "random":
            raise ValueError(
                f"config.train.head_only_share={self.train.head_only_share} trains a head on frozen features, and "
                "config.train.initial_weights=random has none that were learned; choose imagenet or the path of a run"
            )


@dataclass(frozen=True)
class GanData(DataFields):
    image_size: Literal[64, 128, 256, 512, 1024]


@dataclass(frozen=True)
class LearnedClasses:
    """The classes that a generator of images learns: the one of a label, or all."""

    label: str
    conditional: bool

    def check_label(self, group: str) -> None:
        """Raises ValueError unless a label is given or all classes are learned; `group` names the fields."""
        if bool(self.label) == self.conditional:
            raise ValueError(
                f"give the class to learn with --config.{group}.label=NAME, or learn all with "
                f"--config.{group}.conditional=True; now label is {self.label!r} and conditional is {self.conditional}"
            )


@dataclass(frozen=True)
class GanFields(LearnedClasses):
    condition_from: Annotated[Share, Added(2, before=0.0)]
    condition_until: Annotated[Share, Added(2, before=0.0)]
    perceptual: Literal["lite0", "lpips_vgg16", "pixels", "none"]
    vgg_weights: str
    lpips_weights: str
    sum_reconstructions: bool
    clip_targets: bool
    small_image: Literal["area", "nearest"]
    ema_decay: Annotated[float, Interval(ge=0, lt=1)]
    statistics: Literal["recalibrated", "batch"]
    initial_weights: Annotated[str, Added(9, before="")]
    frozen_side: Annotated[int, Interval(ge=0, le=1024), Added(9, before=0)]


@dataclass(frozen=True)
class GanAugment:
    flip: bool
    rotate: bool
    diff_augment: bool
    cutout: Annotated[bool, Added(8, before=False)]
    shared: bool
    adaptive_target: Annotated[float, Interval(gt=-1, lt=1)]
    images_to_one: Annotated[float, Interval(gt=0, le=1e12)]


@dataclass(frozen=True)
class GanOptimizer(OptimizerFields):
    reference_batch_size: Annotated[BatchSize, Added(4, before=8)]


@dataclass(frozen=True)
class GeneratorTrain(TrainFields):
    num_train_steps: Steps
    sample_every: Steps
    checkpoint_every: Steps


@dataclass(frozen=True)
class GanConfig:
    """Configuration of a GAN: configs/gan.py."""

    NOUN: ClassVar = "a GAN"
    NEEDED: ClassVar = (
        "data.path", "data.image_size", "data.resize", "data.fold", "model", "gan.label", "gan.conditional",
        "gan.statistics",
    )  # fmt: skip

    trainer: Literal["gan"]
    seed: Seed
    data: GanData
    gan: GanFields
    augment: GanAugment
    model: Annotated[Choice, GENERATOR]
    optimizer: GanOptimizer
    train: GeneratorTrain
    classes: tuple[str, ...] | None = None  # of a packed run, in the order of its labels

    @property
    def learned(self) -> LearnedClasses:
        """The classes that it learns."""
        return self.gan

    def check(self) -> None:
        """Raises ValueError for incompatible values."""
        gan = self.gan
        gan.check_label("gan")
        if self.augment.cutout and not self.augment.diff_augment:
            raise ValueError(
                "config.augment.cutout=True adds to config.augment.diff_augment, which is False; set both or neither"
            )
        if gan.condition_from > gan.condition_until:
            raise ValueError(
                f"config.gan.condition_from={gan.condition_from} and condition_until={gan.condition_until} must be "
                "shares of the run in this order"
            )
        if gan.frozen_side and not gan.initial_weights:
            raise ValueError(
                f"config.gan.frozen_side={gan.frozen_side} freezes learned layers; give the run that they come from by "
                "config.gan.initial_weights"
            )


@dataclass(frozen=True)
class DiffusionFields(LearnedClasses):
    label_dropout: Share
    sigma_data: Scale
    noise_mean: Annotated[float, Interval(ge=-20, le=20)]
    noise_std: Annotated[float, Interval(gt=0, le=20)]
    ema_decay: Annotated[float, Interval(ge=0, lt=1)]
    sampling_steps: Annotated[int, Interval(ge=2, le=MOST_SAMPLING_STEPS)]
    audit_images: Annotated[int, Interval(ge=0, le=10_000)]


@dataclass(frozen=True)
class DiffusionAugment:
    flip: bool
    rotate: bool


@dataclass(frozen=True)
class DiffusionOptimizer(OptimizerFields):
    reference_batch_size: BatchSize


@dataclass(frozen=True)
class DiffusionConfig:
    """Configuration of a diffusion model: configs/diffusion.py."""

    NOUN: ClassVar = "a diffusion model"
    NEEDED: ClassVar = (
        "data.path", "data.image_size", "data.resize", "data.fold", "model", "diffusion.label",
        "diffusion.conditional", "diffusion.label_dropout", "diffusion.sigma_data", "diffusion.sampling_steps",
        "diffusion.audit_images",
    )  # fmt: skip

    trainer: Literal["diffusion"]
    seed: Seed
    data: DataFields
    diffusion: DiffusionFields
    augment: DiffusionAugment
    model: Annotated[Choice, DENOISER]
    optimizer: DiffusionOptimizer
    train: GeneratorTrain

    @property
    def learned(self) -> LearnedClasses:
        """The classes that it learns."""
        return self.diffusion

    def check(self) -> None:
        """Raises ValueError for incompatible values."""
        self.diffusion.check_label("diffusion")
        if 0 < self.diffusion.audit_images < LEAST_AUDITED:
            raise ValueError(
                f"config.diffusion.audit_images={self.diffusion.audit_images} must be at least {LEAST_AUDITED}, or 0 "
                "for no audit: of fewer images, copies could not be told"
            )
        granularity = models.make_denoiser(0, **self.model.options).granularity
        if self.data.image_size % granularity:
            raise ValueError(
                f"config.data.image_size={self.data.image_size} must be a multiple of {granularity}, the px of one "
                "position of the smallest map: config.model.patch, doubled at each further level of .channels"
            )


GeneratorConfig = GanConfig | DiffusionConfig


@dataclass(frozen=True)
class ExperimentData:
    path: str
    more: tuple[str, ...]
    phantom_scale: Scale
    classes: str
    exclude: str
    group_regex: str
    folds: Annotated[int, Interval(ge=3, le=MAX_FOLDS)]


@dataclass(frozen=True)
class PoolFields:
    images: Annotated[int, Interval(ge=1, le=10**6)]
    truncation: Annotated[float, Interval(gt=0, le=10)]
    guidance: Annotated[float, Interval(ge=0, le=100), Added(8, before=1.0)]
    judge: str
    features: Annotated[
        Literal["efficientnet_lite2", "efficientnet_lite0", "classifier"], Added(9, before="efficientnet_lite2")
    ]
    least_probability: Share
    distance_quantile: Share
    distance_slack: Annotated[float, Interval(ge=0, le=1e6)]
    copy_quantile: Share


@dataclass(frozen=True)
class TuneFields:
    field: str = ""
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class ArmFields:
    """One arm, as made by `arm` of configs/experiment.py."""

    title: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    added: str = ""
    count: Annotated[int, Interval(le=10**6)] = 0
    share: Annotated[float, Interval(ge=0, le=100)] = 0.0
    tau: Annotated[float, Interval(ge=0)] = 0.0
    tune: TuneFields = field(default_factory=TuneFields)
    start: str = ""
    members: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    adjust: bool = False
    seeds: Annotated[int, Interval(ge=0)] = 0


@dataclass(frozen=True)
class QuestionFields:
    """One question, as made by `question` of configs/experiment.py."""

    text: str
    subject: str
    arm: str
    than: str


@dataclass(frozen=True)
class ExperimentConfig:
    """Configuration of an experiment: configs/experiment.py."""

    NOUN: ClassVar = "an experiment"

    trainer: Literal["experiment"]
    seed: Seed
    data: ExperimentData
    folds: tuple[Annotated[int, Interval(ge=0)], ...]
    seeds: tuple[Seed, ...]
    only: str
    minority_share: Annotated[float, Interval(gt=0, le=1)]
    pool: PoolFields
    metric: Literal["macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy"]
    offsets: Annotated[Literal["prior", "class"], Added(9, before="prior")]
    resamples: Annotated[int, Interval(ge=1, le=10**8)]
    classifier: ClassifierConfig
    gan: GanConfig
    generators: dict[str, dict[str, Any]]
    arms: dict[str, ArmFields]
    questions: dict[str, QuestionFields]
    order: tuple[str, ...]
    primary: str
    recommended: Annotated[str, Added(7, before="")]
    not_run: dict[str, str]
    diffusion: DiffusionConfig | None = None  # experiments of earlier revisions have none

    def check(self) -> None:
        """Raises ValueError for incompatible values; arms are checked by `experiment.arms.read_arms`."""
        for fold in self.folds:
            if fold >= self.data.folds:
                raise ValueError(f"config.folds names fold {fold}; there are folds 0 to {self.data.folds - 1}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"config.seeds={self.seeds} must be different integers, at least one")


CONFIGS: dict[str, type[Any]] = {
    "classifier": ClassifierConfig,
    "gan": GanConfig,
    "diffusion": DiffusionConfig,
    "experiment": ExperimentConfig,
}
GENERATORS = ("gan", "diffusion")  # trainers of generators of images

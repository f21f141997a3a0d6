"""Opening the run of a GAN: its classes, split and generator."""

from dataclasses import dataclass
from pathlib import Path

from dim_jax.data.dataset import open_run_dataset
from dim_jax.gan import transition
from dim_jax.gan.generator_run import GeneratorRun, Sampling
from dim_jax.gan.synthesis import Synthesizer, recalibrate, variable_shapes
from dim_jax.models import make_gan
from dim_jax.models.efficientnet_lite import LITE0
from dim_jax.runs import configuration
from dim_jax.training import packed_runs
from dim_jax.training.loop import CHECKPOINTS
from dim_jax.training.restored_variables import check_variables

MOST_TRUNCATION = 10
# config.gan.perceptual -> networks in whose features the discriminator learns to reconstruct real images.
DISCRIMINATOR_FEATURES: dict[str, tuple[str, ...]] = {
    "lite0": (LITE0,),
    "lpips_vgg16": ("vgg16",),
    "pixels": (),
    "none": (),
}


@dataclass(frozen=True)
class GanRun(GeneratorRun):
    """A trained or imported GAN, ready to generate images; see GeneratorRun."""

    synthesizer: Synthesizer
    KIND = "gan"

    def sampling(self, given: Sampling) -> dict[str, float]:
        """See GeneratorRun. `truncation` scales the latents, above 0 and at most MOST_TRUNCATION."""
        self.check_kind(given)
        truncation = float(given.get("truncation", 1.0))
        if not 0 < truncation <= MOST_TRUNCATION:
            raise ValueError(f"--truncation={truncation} must be above 0 and at most {MOST_TRUNCATION}")
        return {"truncation": truncation}


def open_gan_run(workdir: str | Path) -> GanRun:
    """Opens the newest checkpoint of a GAN's run, or a packed run.

    Args:
      workdir: run directory.

    Raises:
      FileNotFoundError: there is no run, or it has no checkpoint yet.
      ValueError: the run is not a GAN's, or one of its files is broken.
    """
    workdir = Path(workdir)
    config = configuration.read_config(workdir, "gan")
    label, split_sha256 = config.gan.label or None, ""
    classes = config.classes or (label,)
    if config.data.path:
        dataset = open_run_dataset(workdir, config)
        classes, split_sha256 = dataset.classes, dataset.split_sha256
    folder = workdir / CHECKPOINTS
    restored = packed_runs.restore(workdir, folder)
    if restored is None:
        raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train the run first")
    num_classes = len(classes) if config.gan.conditional else 0
    generator, _ = make_gan(config.data.image_size, num_classes, **config.model.options)
    state = restored.state
    if not isinstance(state, dict) or not isinstance(state.get("generator"), dict):
        raise ValueError(f"{folder} holds no generator; give the run of a GAN")
    averaged = state["generator"] | {"params": state.get("ema_params")}
    variables = check_variables(averaged, variable_shapes(generator), folder)
    strength = 1.0
    if num_classes:
        gan, num_train_steps = config.gan, config.train.num_train_steps
        schedule = transition.label_strength(gan.condition_from, gan.condition_until, num_train_steps)
        strength = float(schedule(restored.step))
    variables = recalibrate(generator, variables, strength)
    synthesizer = Synthesizer(generator, variables, config.gan.statistics, strength)
    return GanRun(
        workdir,
        restored.step,
        synthesizer,
        classes,
        split_sha256,
        label,
        config.data.resize,
        DISCRIMINATOR_FEATURES.get(config.gan.perceptual),
    )

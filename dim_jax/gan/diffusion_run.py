"""Opening the run of a diffusion model: its classes, split and network."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from dim_jax.data.dataset import open_run_dataset
from dim_jax.gan.copying_audit import LEAST_C_T
from dim_jax.gan.diffusion_synthesis import DiffusionSynthesizer
from dim_jax.gan.generator_run import GeneratorRun, Sampling
from dim_jax.models import make_denoiser
from dim_jax.runs import configuration
from dim_jax.runs.schema import MOST_SAMPLING_STEPS
from dim_jax.training import checkpoints
from dim_jax.training.loop import BEST, CHECKPOINTS
from dim_jax.training.restored_variables import check_variables

MOST_GUIDANCE = 100


@dataclass(frozen=True)
class DiffusionRun(GeneratorRun):
    """A trained diffusion model, ready to generate images; see GeneratorRun.

    Attributes:
      label_dropout: share of the training images whose label was dropped; guidance needs some.
    """

    synthesizer: DiffusionSynthesizer
    label_dropout: float
    KIND = "diffusion"

    def sampling(self, given: Sampling) -> dict[str, float]:
        """See GeneratorRun. `steps` is from 2 to MOST_SAMPLING_STEPS, `guidance` from 0 to MOST_GUIDANCE.

        Raises:
          ValueError: an option is out of range or of another kind, or guidance is asked of a model that was trained
            without labels, or without dropping them.
        """
        self.check_kind(given)
        steps, guidance = int(given.get("steps", self.synthesizer.steps)), float(given.get("guidance", 1.0))
        if not 2 <= steps <= MOST_SAMPLING_STEPS:
            raise ValueError(f"--steps={steps} must be from 2 to {MOST_SAMPLING_STEPS}")
        if not 0 <= guidance <= MOST_GUIDANCE:
            raise ValueError(f"--guidance={guidance:g} must be from 0 to {MOST_GUIDANCE}")
        if guidance != 1 and self.label is not None:
            raise ValueError(
                f"--guidance={guidance:g}: {self.workdir} was trained on {self.label} alone, without labels to guide "
                "by; train one with --config.diffusion.conditional=True"
            )
        if guidance != 1 and not self.label_dropout:
            raise ValueError(
                f"--guidance={guidance:g}: {self.workdir} always saw the labels (config.diffusion.label_dropout=0), "
                "and guidance also needs images without; train one with a dropout of 0.1"
            )
        return {"steps": steps, "guidance": guidance}


def open_diffusion_run(workdir: str | Path) -> DiffusionRun:
    """Opens the newest checkpoint of a diffusion model's run, or the newest that passed its audit (copying_audit).

    Args:
      workdir: run directory.

    Raises:
      FileNotFoundError: there is no run, or it has no such checkpoint yet.
      ValueError: the run is not a diffusion model's, one of its files is broken, or all checkpoints fail the audit.
    """
    workdir = Path(workdir)
    config = configuration.read_config(workdir, "diffusion")
    dataset, options = open_run_dataset(workdir, config), config.diffusion
    folder = workdir / (BEST if options.audit_images else CHECKPOINTS)
    restored = checkpoints.restore(folder)
    if restored is None:
        kind = "audited checkpoint" if options.audit_images else "checkpoint"
        raise FileNotFoundError(f"{workdir} holds no {kind} yet; train the run first")
    if options.audit_images and not restored.notes["best"]["value"]:
        raise ValueError(
            f"every checkpoint of {workdir} that was audited copies training images (C_T below {LEAST_C_T:g}); train a "
            "new run with a smaller --config.train.sample_every, to use an earlier checkpoint, or with more images"
        )
    network = make_denoiser(len(dataset.classes) if options.conditional else 0, **config.model.options)
    size = config.data.image_size
    labels = jnp.zeros(1, jnp.int32) if network.num_classes else None
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, 3)), jnp.zeros(1), labels)
    averaged = {"params": restored.state.get("ema_params") if isinstance(restored.state, dict) else None}
    params = check_variables(averaged, shapes, folder)["params"]
    return DiffusionRun(
        workdir=workdir,
        step=restored.step,
        synthesizer=DiffusionSynthesizer(network, params, size, options.sigma_data, options.sampling_steps),
        classes=dataset.classes,
        split_sha256=dataset.split_sha256,
        label=options.label or None,
        resize=config.data.resize,
        discriminator_features=(),
        label_dropout=options.label_dropout,
    )

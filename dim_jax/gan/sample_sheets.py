"""Pictures of a GAN's training: a grid from fixed seeds, reconstructions of fixed real images, and an animation."""

import io
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from dim_jax.gan.synthesis import Synthesizer, recalibrate
from dim_jax.models import scales
from dim_jax.runs import files
from dim_jax.training import parallel
from dim_jax.training.state import GanState

FOLDER = "samples"
SAMPLES, RECONSTRUCTIONS, ANIMATION = "samples", "reconstructions", "animation.webp"
NUM_SAMPLES, NUM_RECONSTRUCTED = 64, 8
_COLUMNS = 8
_MAX_TILE = 256  # px
_FRAME_MILLISECONDS = 300
_MAX_FRAMES = 40


class SampleSheets:
    """Writes samples/samples_STEP.png, samples/reconstructions_STEP.png and samples/animation.webp of a run.

    Attributes:
      folder: where they are written.
    """

    def __init__(
        self,
        run: Path,
        generator: nn.Module,
        discriminator: nn.Module | None,
        statistics: str,
        examples: tuple[np.ndarray, np.ndarray],
        label_strength: optax.Schedule,
    ):
        """Args:
        run: run directory.
        generator: draws the images.
        discriminator: rebuilds the examples; None where it does not learn to.
        statistics: see synthesis.Synthesizer.
        examples: real training images (N, S, S, 3) uint8 and their labels (N,).
        label_strength: how much labels count in drawing, as a function of the step.
        """
        self.folder = run / FOLDER
        # One device draws; there is no axis to average over.
        self._generator, self._statistics = generator.clone(axis_name=None), statistics
        self._discriminator = discriminator and discriminator.clone(axis_name=None)
        self._examples, self._labels = examples
        self._label_strength = label_strength
        self._rebuild = jax.jit(self._rebuilt)

    def draw(self, state: GanState) -> dict[str, float]:
        """Writes the sheets of a replicated state.

        Returns:
          diversity: how much the drawn images of a class differ from one another, as a multiple of how much the
            examples do (root mean square difference of pairs, at the small size): near 0, the GAN draws one image per
            class.
        """
        step = int(parallel.unreplicate(state.step))
        training = {name: parallel.unreplicate(each) for name, each in state.generator.variables.items()}
        averaged = {**training, "params": parallel.unreplicate(state.ema_params)}
        strength = float(self._label_strength(step))
        averaged = recalibrate(self._generator, averaged, strength)
        synthesizer = Synthesizer(self._generator, averaged, self._statistics, strength)
        samples = self._samples(synthesizer)
        self._write(f"{SAMPLES}_{step:07d}.png", samples, _COLUMNS)
        if self._discriminator is not None:
            variables = parallel.unreplicate(state.discriminator.variables)
            rebuilt = np.asarray(self._rebuild(variables, self._examples, self._labels))
            self._write(f"{RECONSTRUCTIONS}_{step:07d}.png", rebuilt.reshape(-1, *rebuilt.shape[2:]), rebuilt.shape[1])
        side = scales.small_size(self._generator.size)
        sets = (*np.split(samples, self._generator.num_classes or 1), self._examples)
        *drawn, real = [_spread(scales.shrink_area(each.astype(np.float32), side)) for each in sets]
        return {"diversity": float(np.mean(drawn)) / real if real else 0.0}

    def animate(self) -> None:
        """Joins the grids of all steps so far into an animation."""
        grids = sorted(self.folder.glob(f"{SAMPLES}_*.png"))
        if not grids:
            return
        chosen = np.unique(np.linspace(0, len(grids) - 1, min(len(grids), _MAX_FRAMES)).astype(int))
        frames = [Image.open(grids[number]).convert("RGB") for number in chosen]
        half = [frame.resize((frame.width // 2, frame.height // 2), Image.Resampling.BOX) for frame in frames]
        buffer = io.BytesIO()
        half[0].save(
            buffer, "WEBP", save_all=True, append_images=half[1:], duration=_FRAME_MILLISECONDS, loop=0, quality=80
        )
        files.write_bytes(self.folder / ANIMATION, buffer.getvalue())

    def _samples(self, synthesizer: Synthesizer) -> np.ndarray:
        """One class: 64 seeds. Several: as many seeds for each, one class after the other."""
        num_classes = self._generator.num_classes
        if not num_classes:
            return synthesizer.images(range(NUM_SAMPLES))
        return np.concatenate([synthesizer.images(range(_COLUMNS), label) for label in range(num_classes)])

    def _rebuilt(self, variables: Any, examples: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns (N, 4, s, s, 3) uint8: the image, the whole rebuilt from either branch, and its lower left part."""
        images = jnp.asarray(examples, jnp.float32) / 127.5 - 1.0
        small = scales.shrink_area(images, scales.small_size(images.shape[1]))
        labels = labels if self._discriminator.num_classes else None
        _, rebuilt = self._discriminator.apply(variables, images, small, 2, False, labels, method="reconstruct")
        columns = jnp.stack([small, rebuilt["whole"], rebuilt["small"], rebuilt["part"]], axis=1)
        return jnp.round((jnp.clip(columns, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

    def _write(self, name: str, images: np.ndarray, columns: int) -> None:
        """Writes images (N, H, W, 3) uint8 as a grid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        grid(images, columns).save(buffer, "PNG")
        files.write_bytes(self.folder / name, buffer.getvalue())


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Returns images (N, S, S, 3) uint8 row by row on white, two pixels apart, each at most 256 px wide."""
    side = min(images.shape[1], _MAX_TILE)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 2) - 2, rows * (side + 2) - 2), "white")
    for number, image in enumerate(images):
        tile = Image.fromarray(image)
        if tile.width != side:
            tile = tile.resize((side, side), Image.Resampling.BOX)
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * (side + 2), row * (side + 2)))
    return sheet


def _spread(images: np.ndarray) -> float:
    """Returns the root mean square difference between pairs of images (N, H, W, 3)."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return float(np.sqrt(2 * flat.var(0, ddof=1).mean())) if len(flat) > 1 else 0.0

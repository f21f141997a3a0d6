"""Sample sheets of a GAN in training: images of fixed seeds, reconstructions of fixed real images, an animation."""

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
      folder: the folder that they are written to.
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
        generator: the generator.
        discriminator: the discriminator, whose decoders reconstruct the examples; None without reconstructions.
        statistics: see synthesis.Synthesizer.
        examples: real training images (N, S, S, 3) uint8 and their labels (N,).
        label_strength: scale of the conditioning as a function of the step (transition.label_strength).
        """
        self.folder = run / FOLDER
        # Runs on one device, without an axis to average over.
        self._generator, self._statistics = generator.clone(axis_name=None), statistics
        self._discriminator = discriminator and discriminator.clone(axis_name=None)
        self._examples, self._labels = examples
        self._label_strength = label_strength
        self._reconstruct = jax.jit(self._reconstructions)

    def draw(self, state: GanState) -> dict[str, float]:
        """Writes the sheets of a replicated state.

        Returns:
          diversity: root mean square difference between pairs of samples of a class, at the small size, divided by
            that of the examples; near 0 the GAN generates one image per class.
        """
        step = int(parallel.unreplicate(state.step))
        training = {name: parallel.unreplicate(tree) for name, tree in state.generator.variables.items()}
        averaged = {**training, "params": parallel.unreplicate(state.ema_params)}
        strength = float(self._label_strength(step))
        averaged = recalibrate(self._generator, averaged, strength)
        synthesizer = Synthesizer(self._generator, averaged, self._statistics, strength)
        samples = self._samples(synthesizer)
        self._write(f"{SAMPLES}_{step:07d}.png", samples, _COLUMNS)
        if self._discriminator is not None:
            variables = parallel.unreplicate(state.discriminator.variables)
            rows = np.asarray(self._reconstruct(variables, self._examples, self._labels))
            self._write(f"{RECONSTRUCTIONS}_{step:07d}.png", rows.reshape(-1, *rows.shape[2:]), rows.shape[1])
        side = scales.small_size(self._generator.size)
        sets = (*np.split(samples, self._generator.num_classes or 1), self._examples)
        *generated, real = [_spread(scales.shrink_area(jnp.asarray(images, np.float32), side)) for images in sets]
        return {"diversity": float(np.mean(generated)) / real if real else 0.0}

    def animate(self) -> None:
        """Writes an animation of the sample grids of all steps so far, of at most 40 frames."""
        grids = sorted(self.folder.glob(f"{SAMPLES}_*.png"))
        if not grids:
            return
        numbers = np.unique(np.linspace(0, len(grids) - 1, min(len(grids), _MAX_FRAMES)).astype(int))
        frames = [Image.open(grids[number]).convert("RGB") for number in numbers]
        half = [frame.resize((frame.width // 2, frame.height // 2), Image.Resampling.BOX) for frame in frames]
        buffer = io.BytesIO()
        half[0].save(
            buffer, "WEBP", save_all=True, append_images=half[1:], duration=_FRAME_MILLISECONDS, loop=0, quality=80
        )
        files.write_bytes(self.folder / ANIMATION, buffer.getvalue())

    def _samples(self, synthesizer: Synthesizer) -> np.ndarray:
        """Returns images of 64 seeds, or for a conditional generator of 8 seeds per class, class after class."""
        num_classes = self._generator.num_classes
        if not num_classes:
            return synthesizer.images(range(NUM_SAMPLES))
        return np.concatenate([synthesizer.images(range(_COLUMNS), label) for label in range(num_classes)])

    def _reconstructions(self, variables: Any, examples: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns (N, 4, s, s, 3) uint8: the image, its reconstructions from both branches, and its lower left part."""
        images = jnp.asarray(examples, jnp.float32) / 127.5 - 1.0
        small = scales.shrink_area(images, scales.small_size(images.shape[1]))
        labels = labels if self._discriminator.num_classes else None
        _, decoded = self._discriminator.apply(variables, images, small, 2, False, labels, method="reconstruct")
        columns = jnp.stack([small, decoded["whole"], decoded["small"], decoded["part"]], axis=1)
        return jnp.round((jnp.clip(columns, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

    def _write(self, name: str, images: np.ndarray, columns: int) -> None:
        """Writes images (N, H, W, 3) uint8 as a grid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        grid(images, columns).save(buffer, "PNG")
        files.write_bytes(self.folder / name, buffer.getvalue())


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Arranges images in a grid on white, two pixels apart, each shrunk to at most 256 px.

    Args:
      images: uint8 (N, S, S, 3).
      columns: number of columns.
    """
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


def _spread(images: np.ndarray | jax.Array) -> float:
    """Returns the root mean square difference between pairs of images (N, H, W, 3)."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return float(np.sqrt(2 * flat.var(0, ddof=1).mean())) if len(flat) > 1 else 0.0

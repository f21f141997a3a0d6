"""Sample sheets of a generator in training: images of fixed seeds, reconstructions of real images, an animation."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dim_jax.gan.generator_run import ImageSynthesizer
from dim_jax.models import scales
from dim_jax.models.gcgan import Discriminator
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

State = Any


class SampleSheets:
    """Writes samples/samples_STEP.png, samples/reconstructions_STEP.png and samples/animation.webp of a run.

    Attributes:
      folder: the folder that they are written to.
    """

    def __init__(
        self,
        run: Path,
        synthesizer: Callable[[State], ImageSynthesizer],
        num_classes: int,
        examples: np.ndarray,
        reconstruct: Callable[[State], np.ndarray] | None = None,
    ):
        """Args:
        run: run directory.
        synthesizer: generates the images of a replicated state.
        num_classes: classes that it generates by label; 0 for a generator without labels.
        examples: real training images (N, S, S, 3) uint8.
        reconstruct: replicated state -> images (N, K, s, s, 3) uint8, a row of K for each example; None for none.
        """
        self.folder = run / FOLDER
        self._synthesizer, self._num_classes = synthesizer, num_classes
        self._examples, self._reconstruct = examples, reconstruct

    def draw(self, state: State) -> dict[str, float]:
        """Writes the sheets of a replicated state, which has a `step`.

        Returns:
          diversity: root mean square difference between pairs of samples of a class, at the small size, divided by
            that of the examples; near 0 the generator makes one image per class.
        """
        step = int(parallel.unreplicate(state.step))
        samples = self._samples(self._synthesizer(state))
        self._write(f"{SAMPLES}_{step:07d}.png", samples, _COLUMNS)
        if self._reconstruct is not None:
            rows = self._reconstruct(state)
            self._write(f"{RECONSTRUCTIONS}_{step:07d}.png", rows.reshape(-1, *rows.shape[2:]), rows.shape[1])
        side = scales.small_size(samples.shape[1])
        sets = (*np.split(samples, self._num_classes or 1), self._examples)
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

    def _samples(self, synthesizer: ImageSynthesizer) -> np.ndarray:
        """Returns images of 64 seeds, or for a conditional generator of 8 seeds per class, class after class."""
        if not self._num_classes:
            return synthesizer.images(range(NUM_SAMPLES))
        return np.concatenate([synthesizer.images(range(_COLUMNS), label) for label in range(self._num_classes)])

    def _write(self, name: str, images: np.ndarray, columns: int) -> None:
        """Writes images (N, H, W, 3) uint8 as a grid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        grid(images, columns).save(buffer, "PNG")
        files.write_bytes(self.folder / name, buffer.getvalue())


def reconstruction(
    discriminator: Discriminator, examples: np.ndarray, labels: np.ndarray
) -> Callable[[GanState], np.ndarray]:
    """Returns the function `reconstruct` of SampleSheets for a GAN's discriminator.

    A row is the image, its reconstructions from both branches, and that of its lower left part.

    Args:
      discriminator: the discriminator, whose decoders reconstruct the examples, without a device axis.
      examples: real training images (N, S, S, 3) uint8.
      labels: their labels (N,).
    """

    @jax.jit
    def rows(variables: Any) -> jax.Array:
        images = jnp.asarray(examples, jnp.float32) / 127.5 - 1.0
        small = scales.shrink_area(images, scales.small_size(images.shape[1]))
        own = labels if discriminator.num_classes else None
        _, decoded = discriminator.apply(variables, images, small, 2, False, own, method="reconstruct")
        columns = jnp.stack([small, decoded["whole"], decoded["small"], decoded["part"]], axis=1)
        return jnp.round((jnp.clip(columns, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

    return lambda state: np.asarray(rows(parallel.unreplicate(state.discriminator.variables)))


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

"""Runs of generators of images: what all kinds have in common, and the options by which each kind samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from dim_jax.runs.schema import CONFIGS

# Kind of a generator (its trainer) -> names of its options of sampling.
OPTIONS = {"gan": ("truncation",), "diffusion": ("steps", "guidance")}

Sampling = Mapping[str, float]


def described(sampling: Sampling) -> str:
    """Returns options of sampling in words, such as "steps 18, guidance 1"."""
    return ", ".join(f"{name} {value:g}" for name, value in sampling.items())


class ImageSynthesizer(Protocol):
    """A generator with fixed weights."""

    @property
    def model_hash(self) -> str:
        """SHA-256 of the parameters."""

    def images(self, seeds: Sequence[int], label: int | None = None) -> np.ndarray:
        """Returns one image per seed, (N, S, S, 3) uint8; more options depend on the kind of the generator."""


@dataclass(frozen=True)
class GeneratorRun:
    """A trained generator, ready to generate images.

    Attributes:
      workdir: run directory.
      step: step of the checkpoint.
      synthesizer: generates the images.
      classes: classes that it was trained on.
      split_sha256: Dataset.split_sha256 of the split whose training images it was trained on; "" for a run that was
        imported without data, whose images match no split.
      label: the class that it generates, or None where it generates all of them.
      resize: how its training images were made square (data.images.resize).
      discriminator_features: names of the frozen networks whose features the discriminator or its losses used; metrics
        in these features are not independent of the training. None for an imported run, which does not record them.
      KIND: a key of OPTIONS.
    """

    workdir: Path
    step: int
    synthesizer: ImageSynthesizer
    classes: tuple[str, ...]
    split_sha256: str
    label: str | None
    resize: str
    discriminator_features: tuple[str, ...] | None
    KIND: ClassVar[str]

    def sampling(self, given: Sampling) -> dict[str, float]:
        """Returns the options for `synthesizer.images`: those that are given, with the defaults of the others.

        Raises:
          ValueError: an option is out of range, or is one of another kind of generator.
        """
        raise NotImplementedError

    def check_kind(self, given: Sampling) -> None:
        """Raises ValueError if an option is one of another kind of generator."""
        for name in given:
            if name not in OPTIONS[self.KIND]:
                noun = CONFIGS[self.KIND].NOUN
                own = ", ".join(f"--{option}" for option in OPTIONS[self.KIND])
                raise ValueError(f"--{name}={given[name]:g}: {self.workdir} is the run of {noun}, which has {own}")

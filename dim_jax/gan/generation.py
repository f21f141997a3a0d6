"""Generation of a pool of images from a trained GAN: pool/<class>/seed00042.png, with their pool.json and a card."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from dim_jax.cli.progress import Progress
from dim_jax.gan import generated_cards, pool_writer, pools
from dim_jax.gan.gan_run import GanRun, open_gan_run
from dim_jax.gan.synthesis import GROUP
from dim_jax.runs import files, outputs
from dim_jax.training import compilation, hosts

IMAGES_PER_UPDATE = 64  # of the progress display
MOST_IMAGES, MOST_SEEDS, MOST_TRUNCATION = 10**6, 2**31, 10


def generate_pool(
    workdir: str | Path,
    out: str | Path,
    num: int,
    first_seed: int = 0,
    labels: Sequence[str] = (),
    truncation: float = 1.0,
) -> list[Path]:
    """Generates images of consecutive seeds for each class and writes them to `out/<class>/`; the hosts share the work.

    Calls that write into the same folder take turns.

    Args:
      workdir: run directory of a GAN.
      out: folder of the pool.
      num: number of images of each class, from 1 to MOST_IMAGES.
      first_seed: seed of the first image, at least 0; the last seed must be below MOST_SEEDS.
      labels: classes of the images; required for a GAN of several classes, optional for one of a single class.
      truncation: scale of the latents, above 0 and at most MOST_TRUNCATION (synthesis.Synthesizer.images).

    Returns:
      The folders of the classes.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint yet.
      ValueError: an option is out of range, the GAN does not generate the class, or the run is not a GAN's.
    """
    if not 1 <= num <= MOST_IMAGES:
        raise ValueError(f"--num={num} must be at least 1 and at most {MOST_IMAGES}")
    if not 0 <= first_seed <= MOST_SEEDS - num:
        raise ValueError(f"--first-seed={first_seed} must be at least 0, and the last seed at most {MOST_SEEDS - 1}")
    if not 0 < truncation <= MOST_TRUNCATION:
        raise ValueError(f"--truncation={truncation} must be above 0 and at most {MOST_TRUNCATION}")
    compilation.configure_compilation()
    hosts.on_first_host(lambda: outputs.check(out, is_folder=True))
    run = hosts.on_first_host(lambda: open_gan_run(workdir))
    names = [_label(run, label) for label in labels or (None,)]
    return [_generate_class(run, Path(out), name, num, first_seed, truncation) for name in names]


def _generate_class(run: GanRun, out: Path, label: str, num: int, first_seed: int, truncation: float) -> Path:
    """Generates the images of one class, of range(first_seed, first_seed + num), and returns their folder."""
    # By whole groups, which are computed together, so that no two hosts compute the same group.
    groups = hosts.share_of_host(range(first_seed // GROUP, (first_seed + num - 1) // GROUP + 1))
    all_seeds = range(first_seed, first_seed + num)
    seeds = [seed for group in groups for seed in range(group * GROUP, (group + 1) * GROUP) if seed in all_seeds]

    def images():
        for start in range(0, len(seeds), IMAGES_PER_UPDATE):
            chunk = seeds[start : start + IMAGES_PER_UPDATE]
            yield from run.synthesizer.images(chunk, run.classes.index(label), truncation)
            progress.update(start + len(chunk))

    def make_writer():
        return pool_writer.PoolWriter(
            out,
            label,
            workdir=run.workdir,
            checkpoint_step=run.step,
            model_sha256=run.synthesizer.model_hash,
            split_sha256=run.split_sha256,
            truncation=truncation,
            resize=run.resize,
            discriminator_features=run.discriminator_features,
        )

    def list_images(written: dict[int, str]) -> Path:
        folder = writer.list(written)
        generated_cards.write_pool_card(folder)
        return folder

    with contextlib.ExitStack() as held:
        hosts.on_first_host(lambda: held.enter_context(files.turn(pools.class_folder(out, label))))
        writer = hosts.on_all_hosts(make_writer)
        progress = Progress("generate", len(seeds), 0, 1)
        held.callback(progress.close)
        written = hosts.from_all_hosts(hosts.on_all_hosts(lambda: writer.write(images(), seeds)))
        return hosts.on_first_host(lambda: list_images(dict(itertools.chain(*map(dict.items, written)))))


def _label(run: GanRun, label: str | None) -> str:
    """Returns the class to generate."""
    if run.label is not None:
        if label not in (None, run.label):
            raise ValueError(f"--label={label}: {run.workdir} generates only {run.label}")
        return run.label
    if label not in run.classes:
        raise ValueError(f"--label={label}: {run.workdir} generates {', '.join(run.classes)}; choose one of them")
    return label

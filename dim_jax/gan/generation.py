"""Generation of a pool of images from a trained generator: pool/<class>/seed00042.png, their pool.json and a card."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data.dataset import open_dataset
from dim_jax.gan import generated_cards, pool_writer, pools
from dim_jax.gan.diffusion_run import open_diffusion_run
from dim_jax.gan.gan_run import open_gan_run
from dim_jax.gan.generator_run import GeneratorRun, Sampling
from dim_jax.gan.synthesis import GROUP
from dim_jax.runs import configuration, files, outputs
from dim_jax.runs.schema import GENERATORS
from dim_jax.training import compilation, hosts, packed_runs

MOST_IMAGES, MOST_SEEDS = 10**6, 2**31


def generate_pool(
    workdir: str | Path,
    out: str | Path,
    num: int,
    first_seed: int = 0,
    labels: Sequence[str] = (),
    sampling: Sampling = MappingProxyType({}),
    data: str | Path = "",
    fold: int = 0,
) -> list[Path]:
    """Generates images of consecutive seeds for each class and writes them to `out/<class>/`; the hosts share the work.

    Calls that write into the same folder take turns. Images that an interrupted or an earlier call wrote by the same
    model and options are kept.

    Args:
      workdir: run directory of a GAN or a diffusion model.
      out: folder of the pool.
      num: number of images of each class, from 1 to MOST_IMAGES.
      first_seed: seed of the first image, at least 0; the last seed must be below MOST_SEEDS.
      labels: classes of the images; required for a generator of several classes, optional for one of a single class.
      sampling: options of this kind of generator by name, see GanRun.sampling and DiffusionRun.sampling; those that are
        not given have their defaults.
      data: prepared data, for a packed run, which was trained on other images: the pool is then of the split of these
        data, so that images of it can be selected and trained with there. "": the pool is of the run's own split.
      fold: fold of that split.

    Returns:
      The folders of the classes.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint yet.
      ValueError: an option is out of range or of another kind of generator, the run does not generate the class or is
        not a generator's, the folder holds images of another model or other options, or images that `data` hold out
        were among the run's training images.
    """
    if not 1 <= num <= MOST_IMAGES:
        raise ValueError(f"--num={num} must be at least 1 and at most {MOST_IMAGES}")
    if not 0 <= first_seed <= MOST_SEEDS - num:
        raise ValueError(f"--first-seed={first_seed} must be at least 0, and the last seed at most {MOST_SEEDS - 1}")
    compilation.configure_compilation()
    hosts.on_first_host(lambda: outputs.check(out, is_folder=True))
    run = hosts.on_first_host(lambda: open_run(workdir))
    if data:
        run = hosts.on_first_host(lambda: of_other_data(run, data, fold))
    complete = run.sampling(sampling)
    names = [_label(run, label) for label in labels or (None,)]
    return [_generate_class(run, Path(out), name, num, first_seed, complete) for name in names]


def open_run(workdir: str | Path) -> GeneratorRun:
    """Opens the run of a GAN or a diffusion model; see open_gan_run and open_diffusion_run."""
    kind = configuration.read_config(workdir, *GENERATORS).trainer
    return open_diffusion_run(workdir) if kind == "diffusion" else open_gan_run(workdir)


def of_other_data(run: GeneratorRun, data: str | Path, fold: int) -> GeneratorRun:
    """Returns a packed run as a generator for the split of other data than it was trained on.

    Args:
      run: the run.
      data: prepared data.
      fold: fold of its split.

    Raises:
      FileNotFoundError: there are no such data.
      ValueError: the run is no packed one, or was trained on images that are held out there or on unknown ones.
    """
    if run.split_sha256:
        raise ValueError(
            f"{run.workdir} is the run of one split, and its images are for that; leave out --data, or give a run that "
            "python -m dim_jax.export --to=packed wrote"
        )
    dataset = open_dataset(data, fold)
    packed_runs.check_held_out(str(run.workdir), run.workdir, dataset.held_out)
    return replace(run, split_sha256=dataset.split_sha256)


def _generate_class(run: GeneratorRun, out: Path, label: str, num: int, first_seed: int, sampling: Sampling) -> Path:
    """Generates the images of one class, of range(first_seed, first_seed + num), and returns their folder."""
    # By whole groups, which are computed together, so that no two hosts compute the same group.
    groups = hosts.share_of_host(range(first_seed // GROUP, (first_seed + num - 1) // GROUP + 1))
    all_seeds = range(first_seed, first_seed + num)
    seeds = [seed for group in groups for seed in range(group * GROUP, (group + 1) * GROUP) if seed in all_seeds]

    def images(missing: Sequence[int]) -> Iterator[np.ndarray]:
        done = len(seeds) - len(missing)
        for _, members in itertools.groupby(missing, lambda seed: seed // GROUP):
            group = list(members)
            yield from run.synthesizer.images(group, run.classes.index(label), **sampling)
            done += len(group)
            progress.update(done)

    def write() -> dict[int, str]:
        """Returns seed -> SHA-256 of the images of this host."""
        written = writer.complete(seeds)
        missing = [seed for seed in seeds if seed not in written]
        return written | writer.write(images(missing), missing)

    def make_writer():
        return pool_writer.PoolWriter(
            out,
            label,
            workdir=run.workdir,
            checkpoint_step=run.step,
            model_sha256=run.synthesizer.model_hash,
            split_sha256=run.split_sha256,
            kind=run.KIND,
            sampling=sampling,
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
        written = hosts.from_all_hosts(hosts.on_all_hosts(write))
        return hosts.on_first_host(lambda: list_images(dict(itertools.chain(*map(dict.items, written)))))


def _label(run: GeneratorRun, label: str | None) -> str:
    """Returns the class to generate."""
    if run.label is not None:
        if label not in (None, run.label):
            raise ValueError(f"--label={label}: {run.workdir} generates only {run.label}")
        return run.label
    if label not in run.classes:
        raise ValueError(f"--label={label}: {run.workdir} generates {', '.join(run.classes)}; choose one of them")
    return label

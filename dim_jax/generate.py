"""Generates images with a trained GAN or diffusion model: OUT/<class>/seed00042.png, and their origin in pool.json."""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line, huge_pages

EXAMPLES = """  python -m dim_jax.generate --workdir=runs/gan_normal --num=200 --out=pool
  python -m dim_jax.generate --workdir=runs/gan_all --label=normal --num=200 --out=pool    # a class-conditional one
  python -m dim_jax.generate --workdir=runs/diffusion --label=normal --num=200 --steps=18 --guidance=2 --out=pool"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("generate", __doc__, EXAMPLES)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=command_line.path_or_url, help="run directory of a generator, or its URL")
    which.add_argument(
        "--model", metavar="NAME", help="a trained generator that comes with dim_jax (python -m dim_jax.zoo.catalog)"
    )
    parser.add_argument(
        "--out", type=command_line.path_or_url, required=True, help="folder of the pool; images go to OUT/<class>/"
    )
    parser.add_argument("--num", type=int, default=64, help="number of images (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first image (default: %(default)s)")
    parser.add_argument("--label", type=command_line.class_name, help="class to generate, for a class-conditional run")
    parser.add_argument(
        "--truncation",
        type=float,
        help="of a GAN: truncation of the latents; below 1 gives less variety and fewer outliers (default: 1)",
    )
    parser.add_argument(
        "--steps", type=int, help="of a diffusion model: steps of the sampler (default: the run's sampling_steps)"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        help="of a diffusion model with labels: classifier-free guidance; above 1 gives less variety and more of what "
        "is particular to the class (default: 1, none)",
    )
    parser.add_argument(
        "--data",
        type=command_line.path,
        help="of a packed or --model run: prepared data whose training images are to be extended; refused if images "
        "that they hold out were among the run's training images",
    )
    parser.add_argument("--fold", type=int, default=0, help="fold of --data (default: %(default)s)")
    command_line.add_take_over(parser)
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.gan.generation import generate_pool
    from dim_jax.runs.local_paths import LocalPaths
    from dim_jax.training import hosts
    from dim_jax.zoo import catalog

    hosts.join()
    labels = [options.label] if options.label else []
    workdir = options.workdir
    if options.model is not None:
        workdir = catalog.folder(options.model)
        command_line.say(catalog.notice(options.model))
    sampling = {name: getattr(options, name) for name in ("truncation", "steps", "guidance")}
    given = {name: value for name, value in sampling.items() if value is not None}
    if command_line.is_bucket_url(options.out) and not hosts.is_only_host():
        raise ValueError(f"--out={options.out}: several hosts write the images, so give a folder that all of them see")
    with LocalPaths(options.take_over, hosts.on_first_host) as paths:
        workdir, options.out = paths.read(workdir), paths.write(options.out)
        data = paths.read(options.data) if options.data else ""
        (folder,) = generate_pool(
            workdir, options.out, options.num, options.first_seed, labels, given, data, options.fold
        )
        command_line.say(f"{options.num} images in {folder}")
        command_line.say_next(
            "select",
            f"--pool={options.out}",
            f"--data={options.data or 'DATA'}",
            "--classifier=RUN_ON_REAL_IMAGES",
            "--out=selected",
        )


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))

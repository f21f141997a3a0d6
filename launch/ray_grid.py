"""Runs an experiment on a Ray cluster: each task as soon as those that it needs have succeeded.

    pip install -e '.[ray]'
    python launch/ray_grid.py --num-gpus=1 -- --config=configs/experiment.py --config.data.path=DATA --workdir=runs/dim

Options of this script come before --, those of train after it. All nodes need this package, and this folder, --workdir
and the data at the same place, on shared storage. A task whose node is lost or that gets SIGTERM is started again, on
any node, and resumes. The same command again does what is not finished.
"""

import argparse
import os
import subprocess
import sys

import ray

from dim_jax import train
from dim_jax.cli import command_line


class Interrupted(Exception):
    """A task was stopped by a signal and can be resumed."""


def do_task(folder: str, arguments: list[str], *_: object) -> None:
    """Does one task of an experiment; the arguments after the first two are results of tasks that it needs.

    The task runs in Ray's worker, so that it ends with its node.
    """
    os.chdir(folder)
    code = command_line.run(train.main, arguments)
    if code == command_line.STOPPED:
        raise Interrupted
    if code:
        raise RuntimeError(f"train {' '.join(arguments)} ended with exit code {code}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the cluster; by default the running one, or a new one on this machine")
    parser.add_argument("--num-cpus", type=float, default=1, help="CPUs of a task (default %(default)s)")
    parser.add_argument("--num-gpus", type=float, default=0, help="GPUs of a task (default %(default)s)")
    parser.add_argument("--retries", type=int, default=5, help="of a task that is interrupted (default %(default)s)")
    parser.add_argument("train", nargs="+", help="options of python -m dim_jax.train, after --")
    options = parser.parse_args()

    command = [sys.executable, "-m", "dim_jax.train", *options.train, "--list-tasks"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if listed.returncode:
        return listed.returncode
    ray.init(address=options.address)
    remote = ray.remote(
        num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_retries=options.retries,
        retry_exceptions=[Interrupted], max_calls=1,
    )(do_task)  # fmt: skip
    results: dict[str, ray.ObjectRef] = {}  # by the tasks' numbers
    failed = False
    for number, _, needs, _, what in (line.split(maxsplit=4) for line in listed.stdout.splitlines()[1:]):
        needed = results if needs == "all" else needs.replace("-", "").split(",")
        arguments = [*options.train, f"--task={number}"]
        waited = [results[other] for other in needed if other]
        results[number] = remote.options(name=what).remote(os.getcwd(), arguments, *waited)
    for number, result in results.items():
        try:
            ray.get(result)
        except ray.exceptions.RayError as error:
            print(f"error: task {number}: {str(error).splitlines()[-1]}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

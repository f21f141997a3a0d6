"""overhead_share of a run in a bucket beside the same run on disk, trained by turns.

moto_server -p 5000 &                        # or a real bucket
export AWS_ENDPOINT_URL=http://127.0.0.1:5000 AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=a
curl -X PUT $AWS_ENDPOINT_URL/slides
python benchmarks/buckets.py --bucket=s3://slides/benchmark
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import metrics_file
from dim_jax.runs.bucket_copies import BucketCopy
from dim_jax.runs.buckets import BucketFolder


def train(options, workdir):
    """Trains one run and returns its seconds."""
    command = [sys.executable, "-m", "dim_jax.train", *options, f"--workdir={workdir}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def overhead_share(run):
    """The share of the last line, which is of all dispatches but the first."""
    lines = [line for line in metrics_file.read(run) if line.get("split") == "train"]
    return lines[-1]["overhead_share"], len(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", required=True, metavar="URL", help="new folder of a bucket")
    parser.add_argument("--rounds", type=int, default=3, help="runs on each side (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a run (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_dataset("phantom", Path(folder, "data"), image_size=32, scale=0.05)
        common = [
            "--config=classifier:test",
            f"--config.data.path={data}",
            f"--config.train.num_epochs={options.epochs}",
            "--config.train.report=False",
        ]
        train([*common, "--config.train.num_epochs=1"], Path(folder, "warm-up"))  # fills the compilation cache
        sides = {"disk": [], "bucket": []}
        for number in range(options.rounds):
            url = f"{options.bucket}/run{number}"
            disk, copy = Path(folder, f"disk{number}"), Path(folder, f"bucket{number}")
            seconds = {"disk": train(common, disk), "bucket": train(common, url)}
            bucket = BucketFolder(url)
            BucketCopy(bucket, copy).download()
            for side, run in (("disk", disk), ("bucket", copy)):
                share, dispatches = overhead_share(run)
                sides[side].append(share)
                print(f"{side}\toverhead_share {share:.4f}\t{dispatches} dispatches\t{seconds[side]:.1f} s", flush=True)
        size = sum(entry.size for entry in bucket.list().values())
        print(f"{len(bucket.list())} objects with {size / 2**20:.2f} MiB at the end of a run")
        for side, shares in sides.items():
            print(f"{side}\tmedian {statistics.median(shares):.4f}, {min(shares):.4f} to {max(shares):.4f}")


if __name__ == "__main__":
    main()

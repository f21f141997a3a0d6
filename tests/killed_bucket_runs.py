"""A run of the toy task in a bucket, in a process of its own that can be killed at any moment."""

import subprocess
import sys
import time
from pathlib import Path

URL_OPTION = "--work"


def work(url):
    """Trains in a bucket, uploading all the time; another process that was killed before is taken over."""
    import toy_task

    from dim_jax.runs import bucket_copies, files, workdir
    from dim_jax.runs.local_paths import LocalPaths

    bucket_copies.SECONDS = 0.01
    task = toy_task.make_task()
    print("begins", flush=True)
    with LocalPaths(take_over=True) as paths, workdir.claim(paths.write(url)) as run:
        if not (run / workdir.CONFIG).is_file():
            files.write_json(run / workdir.CONFIG, {"trainer": "toy"})
        toy_task.fit(run, task, toy_task.LONG_SCHEDULE)


def start(url, seconds=None):
    """Runs `work` in a process, and kills it some seconds after its beginning; returns whether it came to its end."""
    process = subprocess.Popen([sys.executable, __file__, URL_OPTION, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    if seconds is None:
        assert process.wait(300) == 0
        return True
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    return process.returncode == 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    work(sys.argv[2])

"""Stand-ins for programs of clusters, as scripts in a folder for PATH. Each records its calls in calls.jsonl there."""

import json
import os
import shlex
import sys
import textwrap
from pathlib import Path

RECORD = """
import json, os, pathlib, shutil, signal, subprocess, sys, time
home = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with open(home / "calls.jsonl", "a") as calls:
    calls.write(json.dumps([pathlib.Path(__file__).name, *arguments]) + "\\n")
"""
# Runs the tasks of a job array one after another, in a copy of the script elsewhere, if what it depends on succeeded. A
# task that asks scontrol for it is run again.
SBATCH = """
place = next(number for number, argument in enumerate(arguments) if not argument.startswith("-"))
options = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments[:place])
kind, _, before = options.get("dependency", "").partition(":")
job, code = str(100 + len(list(home.glob("*.code")))), 0
script = shutil.copy(arguments[place], home / f"slurm_script_{job}")
if kind and (kind != "afterok" or (home / f"{before}.code").read_text() != "0"):
    code = 1
for task in options["array"].split(",") if not code else ():
    names = {
        "SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": job, "SLURM_JOB_ID": str(1000 + int(task)),
        "SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "8",
    }
    again = home / f"{job}_{task}.again"
    with open(home / f"dim_jax-{job}_{task}.log", "a") as log:
        while True:
            command = ["bash", script, *arguments[place + 1:]]
            done = subprocess.run(command, env=os.environ | names, cwd=home, stdout=log, stderr=log)
            if not again.exists():
                break
            again.unlink()
    code = code or done.returncode
(home / f"{job}.code").write_text(str(code))
print(job)
"""
SCONTROL = """
(home / f"{arguments[1]}.again").touch()
"""
# Sends SIGTERM to the program once, when the file $STOP_AT is there.
SRUN = """
step = subprocess.Popen(arguments)
stop_at = pathlib.Path(os.environ.get("STOP_AT", "/nowhere"))
while step.poll() is None:
    if stop_at.exists() and not (home / "stopped").exists():
        (home / "stopped").touch()
        step.send_signal(signal.SIGTERM)
    time.sleep(0.05)
sys.exit(step.returncode)
"""
# A slice that is there after three looks at its request. What is copied to it and run on it is in the folder `slice`.
GCLOUD = """
state, queue, slice = home / "node", home / "queue", home / "slice"
assert arguments[:2] == ["compute", "tpus"] and "--zone=zone-a" in arguments
command = arguments[2:5]
value = lambda option: next(a.partition("=")[2] for a in arguments if a.startswith(f"--{option}="))
if command[:2] == ["queued-resources", "create"]:
    if queue.exists():
        sys.exit("it exists already")
    queue.write_text("WAITING_FOR_RESOURCES")
elif command[:2] == ["queued-resources", "delete"]:
    for path in (queue, state):
        path.unlink(missing_ok=True)
    shutil.rmtree(slice, ignore_errors=True)
elif command[:2] == ["queued-resources", "describe"]:
    if not queue.exists():
        sys.exit("NOT_FOUND")
    print(queue.read_text())
    following = {"WAITING_FOR_RESOURCES": "PROVISIONING", "PROVISIONING": "ACTIVE"}
    queue.write_text(following.get(queue.read_text(), queue.read_text()))
    if queue.read_text() == "ACTIVE" and not state.exists():
        state.write_text("READY")
        slice.mkdir()
elif command[:2] == ["tpu-vm", "describe"]:
    if not state.exists():
        sys.exit("NOT_FOUND")
    print(state.read_text())
elif command[:2] == ["tpu-vm", "scp"]:
    source, target = (path.replace("pod:", f"{slice}/") for path in arguments[4:6])
    shutil.copy(source, target)
elif command[:2] == ["tpu-vm", "ssh"]:
    assert command[2] == "pod"
    environment = os.environ | {"HOME": str(slice)}
    code = subprocess.run(["bash", "-c", value("command")], cwd=slice, env=environment).returncode
    if not state.exists():  # it was preempted meanwhile
        code = 255
    sys.exit(code)
else:
    sys.exit(f"unknown: {arguments}")
"""


def write(folder: Path, **programs: str) -> None:
    """Writes stand-ins by their names; each is the text of a Python program that follows RECORD."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{RECORD}{textwrap.dedent(text)}")
        path.chmod(0o755)


def write_python(folder: Path, **modules: str) -> None:
    """Writes a virtual environment whose `python -m MODULE` runs the text of a shell script instead of a module.

    `python -m pip` does nothing, `python -m venv FOLDER` copies the environment, all else is done by this Python.
    """
    (folder / "bin").mkdir(parents=True)
    cases = {"pip": "exit 0", "venv": f'cp -r {shlex.quote(str(folder))} "$3"; exit 0'} | modules
    lines = [f"  '-m {name}') {text} ;;" for name, text in cases.items()]
    python = folder / "bin" / "python"
    python.write_text("\n".join(["#!/bin/bash", 'case "$1 $2" in', *lines, "esac", f'exec {sys.executable} "$@"', ""]))
    python.chmod(0o755)
    activate = 'PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd):$PATH\n'
    (folder / "bin" / "activate").write_text(activate)


def calls(folder: Path, program: str) -> list[list[str]]:
    """Returns the arguments of all calls of a program."""
    path = folder / "calls.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [arguments for name, *arguments in map(json.loads, lines) if name == program]


def path_with(folder: Path) -> str:
    """Returns PATH with a folder before all others."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"

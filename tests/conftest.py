"""Eight fake CPU devices, quick compilation and refusal of unexpected skips, for the whole suite.

docs/testing.md tells how to run it.
"""

import importlib.util
import mmap
import os
import re
from pathlib import Path

import hypothesis
import pytest

# Reasons for which a test may be skipped. Any other skip is a failure: a test that is skipped everywhere tests nothing.
ALLOWED_SKIPS = {
    # optional and large; python -m pytest -m torch runs these where it is
    r"could not import 'torch'|needs PyTorch|PyTorch is optional",
    r"ONNX is optional|onnxruntime-web is not here",  # as above, with -m onnx
    r"Ray is optional",  # large; pip install -e '.[ray]'
    r"axe-core is not here",  # an npm package, which .ci/run installs
    r"could not import '(moto\.server|s3fs|gcsfs|gcp_storage_emulator)'",  # a checkout whose [test] extra is older
    r"the compilers for accelerators are optional",  # large; pip install -e '.[ahead]'
    r"no Chromium is installed",  # a browser is no Python package
    r"the real images are not here",  # they are licensed and not part of the repository
    r"no file system may be mounted here",  # mounting needs root
    r"the kernel's counters are not there",  # /proc is Linux's
}
# Most of the suite's time is compiling, of programs that run for seconds: without optimisation, without the emitters
# that go through MLIR, and as one module per program. Measured on a step of the GAN: 45 s of processors with the first
# flag alone, 20 s with all. XLA ends the process at a flag that it doesn't know, and they come and go with versions.
QUICK_COMPILATION = (
    "xla_backend_optimization_level=0",
    "xla_llvm_disable_expensive_passes=true",
    "xla_cpu_use_fusion_emitters=false",
    "xla_cpu_parallel_codegen_split_count=1",
)


def known_flags():
    """The flags of QUICK_COMPILATION whose names are in the installed XLA and not in XLA_FLAGS yet."""
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    library = Path(folder) / "libjax_common.so"
    if not library.is_file():  # elsewhere than on Linux
        return [f"--{QUICK_COMPILATION[0]}"]
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        names = {flag: flag.split("=")[0] for flag in QUICK_COMPILATION}
        set_already = os.environ.get("XLA_FLAGS", "")
        return [
            f"--{flag}"
            for flag, name in names.items()
            # Removed flags stay in the descriptor of their protocol buffer; a flag's name is a string of its own.
            if name not in set_already and binary.find(b"\0" + name.encode() + b"\0") >= 0
        ]


# Workers and the processes that tests start inherit these.
if "PYTEST_XDIST_WORKER" not in os.environ:
    quick = known_flags() if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu" else []
    devices = "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *quick, devices]).strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # One compilation cache for all workers. JAX locks a cache only if it has a limit.
    cache = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 * 2**30))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from dim_jax.data.preparation import prepare_dataset  # noqa: E402
from dim_jax.training import compilation  # noqa: E402 - imports JAX, which reads the variables

compilation.make_collections_rare()
if "PYTEST_XDIST_WORKER" not in os.environ:
    compilation.remove_entries_without_time(cache)

# The first example of a property may include a compilation.
hypothesis.settings.register_profile("gate", deadline=None, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=200)
hypothesis.settings.load_profile("gate")


# Workers take whole files in the order of collection; a long one at the end would leave the others idle.
LONG_FILES = (
    "trainers/test_gan_train.py",
    "models/test_parity.py",
    "experiment/test_experiment.py",
    "experiment/test_recipe.py",
    "steps/test_gan_step.py",
    "benchmarks/test_benchmarks.py",
    "trainers/test_train.py",
    "interop/test_convert.py",
    "interop/test_export.py",
    "training/test_two_processes.py",
    "training/test_bucket_runs.py",
    "runs/test_buckets.py",
    "training/test_kill_runs.py",
    "runs/test_full_disk.py",
    "training/test_soak.py",
)


def pytest_collection_modifyitems(items):
    """Puts the tests of LONG_FILES first."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="fail every test that would be skipped")


def refuse_skip(report, config):
    """Makes a report of a skip for a reason that isn't allowed one of a failure."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    is_allowed = any(re.search(pattern, reason) for pattern in ALLOWED_SKIPS)
    if config.getoption("--no-skips") or not is_allowed:
        report.outcome = "failed"
        report.longrepr = f"{reason}\nThis reason is not in ALLOWED_SKIPS of tests/conftest.py, or --no-skips is set."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    refuse_skip(report, collector.config)
    return report


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared synthetic tissue of 32 px, for modules that have no data of their own."""
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


@pytest.fixture(scope="module", autouse=True)
def programs_end_with_their_module():
    """A compiled program holds tens of memory maps; a process that reaches the system's limit (65,530) crashes."""
    yield
    compilation.clear_compiled_programs()

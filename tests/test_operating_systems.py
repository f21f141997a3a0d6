"""The package imports on systems that lack Unix's modules."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import dim_jax
failures = []
for module in pkgutil.walk_packages(dim_jax.__path__, "dim_jax."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failures.append(f"{module.name}: {type(error).__name__}: {error}")
print("\\n".join(failures))
"""


def test_every_module_imports_without_the_modules_of_unix():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == ""

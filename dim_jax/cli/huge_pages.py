"""Huge pages for the memory of a process, for quicker work on CPUs.

XLA allocates the activations of every step anew, hundreds of MB for a network at 160 px, and glibc returns them to the
system after it. Each 4 KB of them then costs a page fault. With pages of 2 MB nearly all of these disappear. Results do
not change. docs/performance.md says how to compare.
"""

import os
import platform
import sys
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
SETTING = "glibc.malloc.hugetlb=1"  # madvise(MADV_HUGEPAGE) for memory of malloc; glibc 2.35 and newer
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Runs this program again from its start, as the same process, with huge pages asked of glibc.

    glibc reads its settings only when a process starts. Returns without doing anything where that is no use: on other
    systems, where the kernel does not leave the choice to programs, and where the user set GLIBC_TUNABLES.
    """
    if VARIABLE not in os.environ and _is_of_use():
        os.environ[VARIABLE] = SETTING
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_of_use() -> bool:
    if sys.platform != "linux" or not sys.executable:
        return False
    library, version = platform.libc_ver()
    try:
        return (
            library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35) and "[madvise]" in KERNEL.read_text()
        )
    except (OSError, ValueError):
        return False

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

from trainer.allocator import keep_freed_memory

SIZE = 1 << 26
FAULTS = """
import ctypes, resource
from trainer.allocator import keep_freed_memory
if {keep}: keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
for round in range(8):
    if round == 4: start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(library.malloc({size}))
    ctypes.memset(block, 1, {size})
    library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", FAULTS.format(keep=keep, size=SIZE)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_that_was_freed_is_used_again() -> None:
    pages = 4 * SIZE // resource.getpagesize()
    assert faults(keep=False) > pages / 2
    assert faults(keep=True) < pages / 100


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()

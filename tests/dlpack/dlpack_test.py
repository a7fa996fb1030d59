"""DLPack between FLAME and NumPy, and PyTorch where it is installed: values, layouts, lifetimes and read-only flags."""
import ctypes
import gc
import os
import pathlib
import sys
import unittest

try:
    import numpy as np
except ImportError:
    print("no numpy")
    sys.exit(77)
try:
    import torch
except ImportError:
    torch = None

library = ctypes.CDLL(str(pathlib.Path(os.environ["FLAME_BINARY_DIR"]) / "tests/libflame_dlpack_probe.so"))
library.probe_export.restype = ctypes.c_void_p
library.probe_import.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
python = ctypes.pythonapi
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]

NAMES = ["bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
# A capsule keeps the address of its name.
LEGACY, VERSIONED, USED_LEGACY, USED_VERSIONED = (ctypes.create_string_buffer(n) for n in (
    b"dltensor", b"dltensor_versioned", b"used_dltensor", b"used_dltensor_versioned"))
VALUES = [[0, 3], [1, 4], [2, 5]]


def expected(dtype):
    return [[min(v, 1) for v in row] for row in VALUES] if dtype == "bool" else VALUES


def exported(dtype, copy=False, legacy=False):
    pointer = library.probe_export(NAMES.index(dtype), copy, legacy)
    return python.PyCapsule_New(pointer, ctypes.cast(LEGACY if legacy else VERSIONED, ctypes.c_char_p), None)


class Producer:
    """What np.from_dlpack asks for."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return 1, 0


def imported(capsule, legacy):
    text = ctypes.create_string_buffer(1000)
    pointer = python.PyCapsule_GetPointer(capsule, b"dltensor" if legacy else b"dltensor_versioned")
    library.probe_import(pointer, legacy, text, 1000)
    if not text.value.startswith(b"error"):
        python.PyCapsule_SetName(capsule, ctypes.cast(USED_LEGACY if legacy else USED_VERSIONED, ctypes.c_char_p))
    return text.value.decode()


class Dlpack(unittest.TestCase):
    def test_numpy_reads_every_dtype(self):
        for name in NAMES:
            if name == "bfloat16":
                continue
            for copy in (False, True):
                with self.subTest(name, copy=copy):
                    a = np.from_dlpack(Producer(exported(name, copy)))
                    self.assertEqual(str(a.dtype), name)
                    self.assertEqual(a.astype(int).tolist(), expected(name))
                    self.assertEqual(a.flags.writeable, copy)
                    self.assertEqual(a.flags.c_contiguous, copy)
                    self.assertEqual(library.probe_living(), 0 if copy else 1)
                    del a
                    gc.collect()
                    self.assertEqual(library.probe_living(), 0)

    def test_flame_reads_numpy(self):
        base = np.arange(24).reshape(4, 6)
        for name in NAMES:
            if name == "bfloat16":
                continue
            a = (base % 2 if name == "bool" else base).astype(name)
            for view in (a, a.T, a[1:, ::2], a[::-1, ::-1], a[2, 3], a[:0]):
                for legacy in (False, True):
                    before = sys.getrefcount(a)
                    whole = np.asarray(view)
                    capsule = whole.__dlpack__() if legacy else whole.__dlpack__(max_version=(1, 0))
                    del whole
                    text = imported(capsule, legacy)
                    numbers = "".join(f" {int(v)}" for v in np.asarray(view).flatten())
                    self.assertEqual(text, f"{name} {list(np.shape(view))}{numbers}")
                    del capsule
                    self.assertEqual(sys.getrefcount(a), before)

    def test_refused(self):
        for a, message in ((np.zeros(2, np.uint64), "no dtype for uint of 64 bits"),
                           (np.zeros(2, np.complex64), "no dtype for complex of 64 bits"),
                           (np.zeros((1,) * 9), "9 axes, expected 0 to 8")):
            self.assertIn(message, imported(a.__dlpack__(max_version=(1, 0)), False))

    @unittest.skipIf(torch is None, "no PyTorch")
    def test_torch_both_ways(self):
        for name in NAMES:
            for legacy in (False, True):
                t = torch.from_dlpack(exported(name, legacy=legacy))
                self.assertEqual(str(t.dtype), f"torch.{name}")
                self.assertEqual(t.stride(), (2, 1) if legacy else (1, 3))
                self.assertEqual(t.to(torch.int64).tolist(), expected(name))
                del t
                self.assertEqual(library.probe_living(), 0)
                kept = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
                capsule = torch.utils.dlpack.to_dlpack(kept.t()) if legacy else kept.t().__dlpack__(max_version=(1, 0))
                numbers = " 0 1 1 1 1 1" if name == "bool" else " 0 3 1 4 2 5"
                self.assertEqual(imported(capsule, legacy), f"{name} [3, 2]{numbers}")


unittest.main(verbosity=2)

#!/usr/bin/env python3
"""Golden values of the ops from PyTorch (2.11 or later), for tests/golden_test.cpp.

    golden.py [FILE]      writes tests/golden/ops.json, or FILE
    golden.py --check     makes them again and compares with the file

Inputs are exact in float32, so that one case serves float32 and float64. Outputs and gradients are PyTorch's in float64;
beside them stands the error of PyTorch's own float32 result, the measure of ours. Incoming gradients are fixed eighths."""
import json
import pathlib
import sys

import torch

import golden_ops
from golden_case import CASES

FILE = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/ops.json"


def text():
    rows = ",\n".join(json.dumps(c, separators=(",", ":"), allow_nan=False) for c in CASES)
    version = torch.__version__.split("+")[0]
    return '{"made_by":"tools/golden.py","torch":"%s","cases":[\n%s\n]}\n' % (version, rows)


def near(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(near(a[k], b[k]) for k in a if not k.startswith("float32"))
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(near, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(b, (int, float)) and abs(a - b) <= 1e-13 * max(1, abs(a), abs(b))
    return a == b


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for part in golden_ops.PARTS:
        part()
    if "--check" in sys.argv[1:]:
        old, new = json.loads(FILE.read_text()), json.loads(text())
        keys = lambda d: {f"{c['op']}: {c['label']}": c for c in d["cases"]}
        a, b = keys(old), keys(new)
        wrong = [k for k in a.keys() | b.keys() if k not in a or k not in b or not near(a[k], b[k])]
        print("\n".join(sorted(wrong)))
        print(f"{len(b)} golden cases made again with PyTorch {new['torch']}, {len(wrong)} differ from {FILE.name}")
        sys.exit(bool(wrong))
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    path.write_text(text())
    print(f"{len(CASES)} cases in {path}")


main()

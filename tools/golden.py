#!/usr/bin/env python3
"""Golden values of the ops from PyTorch (2.11 or later), for tests/golden_test.cpp.

    golden.py [PART...]   writes tests/golden/ops/PART.json from tools/golden_parts/PART.py; without a PART all of them
    golden.py --check     makes all of them again and compares with the files

Inputs are exact in float32, so that one case serves float32 and float64. Outputs, gradients and second gradients are
PyTorch's in float64; beside them stands the error of PyTorch's own float32 result, the measure of ours. Incoming gradients
are fixed eighths, and so is what the first gradients are multiplied by for the second ones (golden_case.py)."""
import importlib
import json
import pathlib
import sys

import torch

import golden_case

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ROOT / "tools/golden_parts"
FILES = ROOT / "tests/golden/ops"
sys.path.insert(0, str(PARTS))


def made(part):
    golden_case.CASES.clear()
    torch.manual_seed(0)
    importlib.import_module(part).cases()
    return list(golden_case.CASES)


def text(cases):
    rows = ",\n".join(json.dumps(c, separators=(",", ":"), allow_nan=False) for c in cases)
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


def by_title(cases):
    return {f"{c['op']}: {c['label']}": c for c in cases}


def differing(part, cases):
    """Titles of the cases that the part's file lacks, has beyond `cases` or has with other values."""
    file = FILES / f"{part}.json"
    old = by_title(json.loads(file.read_text())["cases"]) if file.exists() else {}
    new = by_title(json.loads(text(cases))["cases"])
    return [f"{part}: {k}" for k in old.keys() | new.keys() if k not in old or k not in new or not near(old[k], new[k])]


def main():
    torch.set_num_threads(1)
    check = sys.argv[1:] == ["--check"]
    parts = sorted(p.stem for p in PARTS.glob("*.py"))
    count, wrong = 0, []
    for part in parts if check else sys.argv[1:] or parts:
        cases = made(part)
        count += len(cases)
        if check:
            wrong += differing(part, cases)
        else:
            (FILES / f"{part}.json").write_text(text(cases))
            print(f"{len(cases)} cases in {part}.json")
    if check:
        wrong += [f"{f.name}: no such part" for f in FILES.glob("*.json") if f.stem not in parts]
        print("\n".join(sorted(wrong)))
        print(f"{count} golden cases made again with PyTorch {torch.__version__}, {len(wrong)} differ")
        sys.exit(bool(wrong))


main()

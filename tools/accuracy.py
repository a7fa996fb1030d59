#!/usr/bin/env python3
"""Recomputes the test accuracy of a run from its predictions.csv, against the labels of the data set itself if found.

Usage: tools/accuracy.py runs/NAME [--labels t10k-labels-idx1-ubyte.gz]
Prints "accuracy 91.23 % (9123 of 10000)"; ends with status 1 and one line if the file does not hold what it should.
"""
import argparse
import csv
import gzip
import os
import sys


def read_labels(path):
    """Labels of an IDX file, plain or gzip'd."""
    with open(path, "rb") as f:
        raw = f.read()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    count = int.from_bytes(raw[4:8], "big")
    if raw[:4] != b"\0\0\x08\x01" or len(raw) != 8 + count:
        raise ValueError(f"{path}: no IDX file of labels")
    return list(raw[8:])


def read_predictions(path):
    """Rows (label, predicted) in the order of their index, which must be 0, 1, 2, …"""
    with open(path, newline="") as f:
        rows = csv.reader(f)
        header = next(rows, [])
        if header[:3] != ["index", "label", "predicted"]:
            raise ValueError(f"{path}: the header is {','.join(header)!r}, expected index,label,predicted")
        by_index = {}
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"{path}: line {rows.line_num} has {len(row)} fields, expected {len(header)}")
            index, label, predicted = (int(v) for v in row[:3])
            if index in by_index:
                raise ValueError(f"{path}: line {rows.line_num}: index {index} occurs twice")
            by_index[index] = (label, predicted)
    if not by_index or sorted(by_index) != list(range(len(by_index))):
        raise ValueError(f"{path}: the indices are not 0 to {len(by_index) - 1}")
    return [by_index[i] for i in range(len(by_index))]


def correct_and_total(path, labels_path=None):
    rows = read_predictions(path)
    if labels_path:
        labels = read_labels(labels_path)
        if len(labels) != len(rows):
            raise ValueError(f"{path}: {len(rows)} predictions for the {len(labels)} labels of {labels_path}")
        for i, (expected, (label, _)) in enumerate(zip(labels, rows)):
            if expected != label:
                raise ValueError(f"{path}: index {i} has label {label}, but {labels_path} says {expected}")
    return sum(label == predicted for label, predicted in rows), len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the run's folder, or a predictions.csv")
    folder = os.path.join(os.environ.get("FLAME_DATASETS") or "/usr/share/datasets", "fashion-mnist")
    default = os.path.join(folder, "t10k-labels-idx1-ubyte.gz")
    parser.add_argument("--labels", default=default if os.path.exists(default) else None,
                        help="IDX file to check the label column against (default: Fashion-MNIST's, if installed)")
    args = parser.parse_args()
    path = os.path.join(args.run, "predictions.csv") if os.path.isdir(args.run) else args.run
    try:
        correct, total = correct_and_total(path, args.labels)
    except (OSError, ValueError) as e:
        sys.exit(f"accuracy: {e}")
    print(f"accuracy {100 * correct / total:.2f} % ({correct} of {total})")


if __name__ == "__main__":
    main()

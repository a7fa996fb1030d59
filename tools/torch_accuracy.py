#!/usr/bin/env python3
"""PyTorch's opinion of a trained run: loads its safetensors into the same CNN, written again here in plain PyTorch.

Usage: tools/torch_accuracy.py runs/NAME [--weights FILE] [--data FOLDER]
Computes the test accuracy from the IDX files and compares it with the run's predictions.csv: status 1 if they differ
by more than one image. Needs PyTorch and safetensors.
"""
import argparse
import gzip
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from accuracy import correct_and_total, read_labels, read_predictions


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(3136, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def read_images(path):
    """IDX images as float32 [n, 1, h, w] in 0..1."""
    with gzip.open(path, "rb") as f:
        raw = f.read()
    n, h, w = (int.from_bytes(raw[at:at + 4], "big") for at in (4, 8, 12))
    if raw[:4] != b"\0\0\x08\x03" or len(raw) != 16 + n * h * w:
        raise ValueError(f"{path}: no IDX file of images")
    return torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(n, 1, h, w).float() / 255


def network_weights(path, names):
    """The network's tensors in the file, by their own names or below one prefix such as "model."."""
    tensors = load_file(path)
    for prefix in sorted({k[:-len("conv1.weight")] for k in tensors if k.endswith("conv1.weight")}, key=len):
        if all(prefix + n in tensors for n in names):
            return {n: tensors[prefix + n] for n in names}
    raise ValueError(f"{path}: no tensors {', '.join(names)} (it has {', '.join(sorted(tensors))})")


def find_weights(run):
    for name in ("model.safetensors", "checkpoint.safetensors"):
        if os.path.exists(os.path.join(run, name)):
            return os.path.join(run, name)
    raise ValueError(f"{run}: neither model.safetensors nor checkpoint.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--weights", help="default: model.safetensors or checkpoint.safetensors of the run")
    datasets = os.environ.get("FLAME_DATASETS") or "/usr/share/datasets"
    parser.add_argument("--data", default=os.path.join(datasets, "fashion-mnist"), help="folder of the IDX files")
    args = parser.parse_args()
    labels_path = os.path.join(args.data, "t10k-labels-idx1-ubyte.gz")
    predictions = os.path.join(args.run, "predictions.csv")
    try:
        weights = args.weights or find_weights(args.run)
        model = CNN()
        model.load_state_dict(network_weights(weights, list(model.state_dict())))
        images = read_images(os.path.join(args.data, "t10k-images-idx3-ubyte.gz"))
        labels = read_labels(labels_path)
        flame_correct, total = correct_and_total(predictions, labels_path)
    except (OSError, ValueError, RuntimeError) as e:
        sys.exit(f"torch_accuracy: {e}")
    with torch.no_grad():
        predicted = torch.cat([model.eval()(part).argmax(1) for part in images.split(1000)]).tolist()
    correct = sum(p == l for p, l in zip(predicted, labels))
    differ = sum(p != q for p, (_, q) in zip(predicted, read_predictions(predictions)))
    print(f"FLAME    {100 * flame_correct / total:.2f} % ({flame_correct} of {total})")
    print(f"PyTorch  {100 * correct / total:.2f} % ({correct} of {total}), {differ} predictions differ, from {weights}")
    if abs(correct - flame_correct) > 1:
        sys.exit(f"torch_accuracy: the two differ by {abs(correct - flame_correct)} images, expected at most 1")


if __name__ == "__main__":
    main()

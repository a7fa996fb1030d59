"""Prints what Python's safetensors finds: metadata, then "name dtype shape crc32-of-bytes" of every tensor."""
import json
import sys
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

path = sys.argv[1]
with safe_open(path, framework="pt") as f:
    print(json.dumps(f.metadata(), sort_keys=True))
    for name in sorted(f.keys()):
        t = f.get_tensor(name)
        raw = bytes(t.contiguous().flatten().view(dtype=torch.uint8).numpy()) if t.numel() else b""
        print(name, str(t.dtype).removeprefix("torch."), list(t.shape), zlib.crc32(raw))
if len(sys.argv) > 2:  # and writes it again, for the way back
    save_file(load_file(path), sys.argv[2], metadata={"from": "python"})

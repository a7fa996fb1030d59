"""Prints what Python's safetensors finds: metadata, then "name dtype shape"; writes all of it to a second file."""
import ctypes
import json
import sys

from safetensors import TensorSpec, deserialize, safe_open, serialize_file

NAMES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
         "F32": "float32", "F64": "float64"}

with safe_open(sys.argv[1], framework="np") as f:
    print(json.dumps(f.metadata(), sort_keys=True))
with open(sys.argv[1], "rb") as f:
    tensors = dict(deserialize(f.read()))
for name, t in sorted(tensors.items()):
    print(name, NAMES[t["dtype"]], t["shape"])
buffers = {name: ctypes.create_string_buffer(bytes(t["data"]), len(t["data"])) for name, t in tensors.items()}
serialize_file({name: TensorSpec(dtype=NAMES[t["dtype"]], shape=t["shape"], data_ptr=ctypes.addressof(buffers[name]),
                                 data_len=len(t["data"])) for name, t in tensors.items()},
               sys.argv[2], {"from": "python"})

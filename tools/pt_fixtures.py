"""Writes the small PyTorch files of tests/files/pt and what stands in them (contents.json), with PyTorch 2.11.
Run as: /path/with/torch/bin/python tools/pt_fixtures.py"""
import collections
import io
import json
import pathlib
import zipfile

import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/files/pt"
DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
          torch.float32, torch.float64]


def described(value):
    if isinstance(value, torch.Tensor):
        values = value.detach().to(torch.float64).flatten().tolist()
        return {"dtype": str(value.dtype).split(".")[1], "shape": list(value.shape), "stride": list(value.stride()),
                "data": values}
    return value


def flat(name, value, out):
    if isinstance(value, dict):
        for k, v in value.items():
            flat(f"{name}.{k}" if name else str(k), v, out)
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            flat(f"{name}.{i}" if name else str(i), v, out)
    else:
        out[name] = described(value)
    return out


def good():
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    yield "dtypes", {str(t).split(".")[1]: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(t) for t in DTYPES}
    yield "views", collections.OrderedDict(
        base=base, transposed=base.t(), row=base[2], column=base[:, 3], gaps=base[1:, ::2], scalar=base[3, 5],
        expanded=base[0, :1].expand(2, 3), empty=torch.empty(2, 0), lone=torch.tensor(7.5))
    yield "state_dict", net.state_dict()
    yield "checkpoint", {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 12, "loss": 0.25,
                         "note": "ä text", "best": None, "large": 2**40, "negative": -(2**40), "done": True,
                         "parts": [torch.ones(2), (1, -70000)], "shape": torch.Size([2, 3])}
    yield "tensor", torch.tensor([[1.5, -2.5]])
    yield "parameter", {"p": torch.nn.Parameter(torch.tensor([1.0, 2.0]))}


def refused():
    """Whole files whose contents are more than tensor records."""
    yield "module", torch.nn.Linear(2, 2)
    yield "complex", {"x": torch.zeros(2, dtype=torch.complex64)}
    yield "sparse", {"x": torch.eye(3).to_sparse()}
    yield "quantized", {"x": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}
    yield "device", {"x": torch.device("cpu")}
    yield "dtype", {"x": torch.float32}
    yield "set", {"x": {1, 2}}
    yield "bytes", {"x": b"abc"}
    yield "function", {"x": print}


def swapped(path):
    """The same archive as a big-endian machine writes it: 4-byte elements alone."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if "/data/" in entry.filename:
                data = b"".join(data[i:i + 4][::-1] for i in range(0, len(data), 4))
            elif entry.filename.endswith("/byteorder"):
                data = b"big"
            target.writestr(zipfile.ZipInfo(entry.filename), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


FOLDER.mkdir(parents=True, exist_ok=True)
contents = {}
for name, value in good():
    torch.save(value, FOLDER / f"{name}.pt")
    contents[name] = flat("", value, {})
torch.save(dict(good())["tensor"], FOLDER / "protocol4.pt", pickle_protocol=4)
contents["protocol4"] = contents["tensor"]
(FOLDER / "big_endian.pt").write_bytes(swapped(FOLDER / "views.pt"))
contents["big_endian"] = contents["views"]
for name, value in refused():
    torch.save(value, FOLDER / f"refused_{name}.pt")
torch.save({"x": torch.ones(2)}, FOLDER / "refused_old.pt", _use_new_zipfile_serialization=False)
torch.jit.script(torch.nn.Linear(1, 1)).save(str(FOLDER / "refused_script.pt"))
(FOLDER / "contents.json").write_text(json.dumps({"torch": torch.__version__.split("+")[0], "files": contents}) + "\n")

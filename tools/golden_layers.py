#!/usr/bin/env python3
"""Golden numbers of whole layers with loaded weights, from PyTorch (2.11 or later), for tests/layers_test.cpp.

    golden_layers.py [FILE]      writes tests/golden/layers.json, or FILE

Weights, inputs and states are eighths made by integer formulas. Of each layer stand there: state by PyTorch's names, inputs,
outputs, and the gradients of inputs and parameters for incoming gradients of eighths, all in float64."""
import json
import pathlib
import sys

import torch

import golden_case

FILE = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/layers.json"


def eighths(shape, salt):
    n = torch.Size(shape).numel()
    return torch.tensor([((i * 37 + salt * 101) % 17 - 8) / 8 for i in range(n)], dtype=torch.float64).reshape(shape)


def case(layer, label, module, options, inputs, call=lambda m, *a: m(*a), steps=1):
    module = module.double()
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(eighths(p.shape, k) / 2)
    state = {name: golden_case.dump(t) for name, t in module.state_dict().items()}
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in inputs]
    for _ in range(steps):
        out = call(module, *leaves)
    out = [out] if isinstance(out, torch.Tensor) else list(out)
    smooth = [y for y in out if y.requires_grad]
    wanted = [t for t in leaves if t.is_floating_point()] + list(module.parameters())
    grads = torch.autograd.grad(smooth, wanted, [golden_case.seed_like(y) for y in smooth])
    names = [name for name, _ in module.named_parameters()]
    split = len(wanted) - len(names)
    return {"layer": layer, "label": label, "options": options, "state": state, "inputs": [golden_case.dump(t) for t in inputs],
            "outputs": [golden_case.dump(y) for y in out], "input_gradients": [golden_case.dump(g) for g in grads[:split]],
            "gradients": {n: golden_case.dump(g) for n, g in zip(names, grads[split:])},
            "after": {n: golden_case.dump(b) for n, b in module.named_buffers()}}


def recurrent_cases():
    for layer, kind in {"RNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}.items():
        variants = [("plain", {}), ("two layers, both ways", {"layers": 2, "bidirectional": True}), ("batch first", {"batch_first": True}),
                    ("no bias", {"bias": False})]
        if layer == "LSTM":
            variants.append(("projection", {"projection": 2, "layers": 2, "bidirectional": True}))
        for label, o in variants:
            names = {"layers": "num_layers", "projection": "proj_size"}
            module = kind(3, 4, **{names.get(k, k): v for k, v in o.items()})
            rows = o.get("layers", 1) * (2 if o.get("bidirectional") else 1)
            shape = (2, 5, 3) if o.get("batch_first") else (5, 2, 3)
            inputs = [eighths(shape, 90), eighths((rows, 2, o.get("projection", 4)), 91)]
            if layer == "LSTM":
                inputs.append(eighths((rows, 2, 4), 92))

            def call(m, x, h, c=None):
                out, state = m(x, h if c is None else (h, c))
                return (out, *state) if c is not None else (out, state)
            yield case(layer, label, module, {"in": 3, "hidden": 4} | o, inputs, call)
        yield case(layer, "no state, one sample", kind(3, 4), {"in": 3, "hidden": 4}, [eighths((5, 3), 90)], lambda m, x: m(x)[0])


def attention_cases():
    base = {"width": 8, "heads": 2}
    x, y, z = eighths((3, 2, 8), 90), eighths((5, 2, 8), 91), eighths((5, 2, 8), 92)
    left_out = torch.tensor([[False, True, False], [False, False, True]])
    above = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)

    def attend(label, inputs, o=None, call=None, **args):
        module = torch.nn.MultiheadAttention(8, 2, **args)
        return case("MultiheadAttention", label, module, base | (o or {}), inputs, call or (lambda m, q, k, v: m(q, k, v, need_weights=False)[0]))
    alone = lambda **a: lambda m, x, *masks: m(x, x, x, need_weights=False, **{k: masks[i - 1] for k, i in a.items()})[0]
    yield attend("self", [x], call=alone())
    yield attend("cross", [x, y, z])
    yield attend("batch first, no bias", [x.transpose(0, 1).contiguous()], {"batch_first": True, "bias": False}, alone(), batch_first=True, bias=False)
    yield attend("one sample", [x[:, 0]], call=alone())
    yield attend("padding", [x, left_out], call=alone(key_padding_mask=1))
    yield attend("mask", [x, above], call=alone(attn_mask=1))
    yield attend("padding and mask", [x, left_out, above], call=alone(key_padding_mask=1, attn_mask=2))
    more = {"add_bias_kv": True, "add_zero_attn": True}
    yield attend("a learned key", [x, y, z], {"add_bias_kv": True}, add_bias_kv=True)
    yield attend("a key of zeros, weights", [x, y, z], {"add_zero_attn": True, "need_weights": True}, lambda m, q, k, v: m(q, k, v), add_zero_attn=True)
    yield attend("padding and mask, more keys", [x, left_out, above], more, alone(key_padding_mask=1, attn_mask=2), **more)
    yield attend("weights", [x, y, z], {"need_weights": True}, lambda m, q, k, v: m(q, k, v))
    yield attend("weights a head", [x, y, z], {"need_weights": True, "average": False}, lambda m, q, k, v: m(q, k, v, average_attn_weights=False))
    yield attend("widths of their own", [x, eighths((5, 2, 3), 91), eighths((5, 2, 4), 92)], {"key_width": 3, "value_width": 4}, kdim=3, vdim=4)
    for label, o in {"norm last, relu": {}, "norm first, gelu": {"norm_first": True, "activation": "gelu"}}.items():
        module = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, **o)
        yield case("TransformerEncoderLayer", label, module, base | {"hidden": 12} | o, [eighths((2, 3, 8), 90)])
    module = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    yield case("TransformerEncoderLayer", "masks", module, base | {"hidden": 12}, [eighths((2, 3, 8), 90), left_out, above],
               lambda m, x, p, a: m(x, src_mask=a, src_key_padding_mask=p))


def norm_cases():
    for label, o, shape, kind in [("1d", {}, (4, 3), torch.nn.BatchNorm1d), ("1d", {}, (2, 3, 4), torch.nn.BatchNorm1d), ("2d", {}, (2, 3, 2, 2), torch.nn.BatchNorm2d),
                                  ("3d", {"momentum": None}, (2, 3, 2, 1, 2), torch.nn.BatchNorm3d)]:
        yield case("BatchNorm" + label, f"{len(shape)}", kind(3, **o), {"average": "momentum" in o}, [eighths(shape, 90)], steps=3)
    for d, kind in {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}.items():
        module = kind(3, affine=True, track_running_stats=True)
        yield case(f"InstanceNorm{d}d", "tracked", module, {}, [eighths((2, 3) + (2,) * d, 90)], steps=2)
    yield case("GroupNorm", "plain", torch.nn.GroupNorm(2, 4), {}, [eighths((2, 4, 3), 90)])
    yield case("RMSNorm", "plain", torch.nn.RMSNorm(6), {}, [eighths((2, 6), 90)])
    yield case("LayerNorm", "plain", torch.nn.LayerNorm(6), {}, [eighths((2, 6), 90)])
    yield case("Embedding", "plain", torch.nn.Embedding(5, 3), {}, [torch.tensor([[4, 0, 4], [1, 1, 2]])])


def main():
    torch.set_num_threads(1)
    cases = [*recurrent_cases(), *attention_cases(), *norm_cases()]
    rows = ",\n".join(json.dumps(c, separators=(",", ":"), allow_nan=False) for c in cases)
    version = torch.__version__.split("+")[0]
    file = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text('{"made_by":"tools/golden_layers.py","torch":"%s","cases":[\n%s\n]}\n' % (version, rows))
    print(f"{len(cases)} cases in {file.name}")


main()

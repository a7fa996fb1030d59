"""Attention, rotary embedding, and the norms beside layer and batch norm."""
import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from golden_case import INF, case, make, t64


def rope(x, positions, base=10000.0, interleaved=False, dims=0):
    dims = dims or x.shape[-1]
    pairs = dims // 2
    angle = positions.double().unsqueeze(-1) * base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128 if x.dtype == torch.float64 else torch.complex64)
    head, rest = x[..., :dims], x[..., dims:]
    a, b = (head[..., 0::2], head[..., 1::2]) if interleaved else head.chunk(2, -1)
    z = torch.complex(a, b) * turn
    head = torch.stack([z.real, z.imag], -1).flatten(-2) if interleaved else torch.cat([z.real, z.imag], -1)
    return torch.cat([head, rest], -1)


def cases():
    op = "scaled_dot_product_attention"

    def attend(label, q, k, v, mask=None, o=None, wrt=None, **args):
        inputs = [make("attention", s) for s in (q, k, v)] + ([] if mask is None else [mask])
        run = lambda q, k, v, m=None: F.scaled_dot_product_attention(q, k, v, attn_mask=m, **args)

        def composed(*inputs):  # of PyTorch's, the one with a second derivative
            with sdpa_kernel(SDPBackend.MATH):
                return run(*inputs)
        case(op, label, run, inputs, o or {}, wrt=wrt or [0, 1, 2], second=composed)
    heads = (2, 3, 5, 4)
    attend("plain", heads, heads, heads)
    attend("cross lengths", (2, 3, 4, 5), (2, 3, 7, 5), (2, 3, 7, 2))
    attend("causal", heads, heads, heads, o={"causal": True}, is_causal=True)
    attend("causal, more keys", (1, 2, 3, 4), (1, 2, 6, 4), (1, 2, 6, 4), o={"causal": True}, is_causal=True)
    attend("causal, more queries", (1, 2, 6, 4), (1, 2, 3, 4), (1, 2, 3, 4), o={"causal": True}, is_causal=True)
    attend("scale", heads, heads, heads, o={"scale": 0.25}, scale=0.25)
    attend("rank 3", (2, 3, 4), (2, 5, 4), (2, 5, 4))
    attend("rank 2", (3, 4), (5, 4), (5, 4))
    attend("rank 5", (2, 1, 2, 3, 4), (2, 1, 2, 5, 4), (2, 1, 2, 5, 4))
    attend("several tiles", (1, 1, 34, 2), (1, 1, 200, 2), (1, 1, 200, 2))
    keep = make("mask", (3, 5)) > -1
    attend("bool mask", (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), mask=keep)
    attend("bool mask a sample", (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), mask=(make("mask", (2, 1, 1, 5)) > -1))
    empty = keep.clone()
    empty[1] = False
    attend("a masked row", (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), mask=empty)
    added = torch.where(empty, make("mask", (3, 5)), torch.tensor(-INF, dtype=torch.float64))
    attend("an added row of -Inf", (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), mask=added)
    attend("mask with a gradient", (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), mask=make("mask", (2, 3, 5)), wrt=[0, 1, 2, 3])
    attend("grouped queries", (2, 6, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), o={"grouped_query": True}, enable_gqa=True)
    attend("no queries", (2, 0, 4), (2, 3, 4), (2, 3, 4))
    attend("no keys", (2, 3, 4), (2, 0, 4), (2, 0, 4))

    x, along = make("rope", (2, 3, 5, 6)), torch.arange(5)
    case("rope", "half split", lambda x: rope(x, along), [x])
    case("rope", "interleaved", lambda x: rope(x, along, interleaved=True), [x], {"interleaved": True})
    case("rope", "offset and base", lambda x: rope(x, along + 7, base=100.0), [x], {"offset": 7, "base": 100.0})
    case("rope", "part of the features", lambda x: rope(x, along, dims=4), [x], {"dims": 4})
    places = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]).reshape(2, 1, 5)
    case("rope", "positions", lambda x, p: rope(x, p), [x, places])

    for label, shape, normal, eps in [("rows", (4, 6), (6,), None), ("two axes", (2, 3, 4), (3, 4), 0.1), ("one element", (3, 1), (1,), 1e-5)]:
        case("rms_norm", label, lambda x, w: F.rms_norm(x, normal, w, eps), [make("rms", shape), make("rms", normal)],
             {"normalized": list(normal)} | ({"eps": eps} if eps else {"eps_of_dtype": True}))
    case("rms_norm", "no weight", lambda x: F.rms_norm(x, (5,), None, 1e-6), [make("rms", (2, 5))], {"normalized": [5], "eps": 1e-6})

    for label, shape, groups, affine in [("images", (2, 6, 3, 2), 3, True), ("rank 2", (3, 4), 2, True), ("one group", (2, 3, 4), 1, False),
                                         ("as many groups as channels", (2, 4, 5), 4, True)]:
        params = [make("gn", (shape[1],)), make("gn", (shape[1],))] if affine else []
        case("group_norm", label, lambda x, w=None, b=None: F.group_norm(x, groups, w, b), [make("gn", shape)] + params, {"groups": groups})

    def instance_norm(x, mean, var, w=None, b=None, use=True, momentum=0.1, eps=1e-5):
        mean, var = mean.clone(), var.clone()
        return F.instance_norm(x, mean, var, w, b, use, momentum, eps), mean.detach(), var.detach()
    for label, shape, o, affine in [("images", (2, 3, 4, 5), {}, True), ("lines", (3, 3, 4), {"momentum": 0.3}, False),
                                    ("volumes", (1, 3, 2, 2, 3), {"eps": 0.01}, True), ("running statistics", (2, 3, 4), {"use": False}, True)]:
        inputs = [make("in", shape), make("in", (3,)), make("in", (3,), 0.5, 2)] + ([make("in", (3,)), make("in", (3,))] if affine else [])
        case("instance_norm", label, lambda *a: instance_norm(*a, **o), inputs, o, wrt=[0] + ([3, 4] if affine else []))

    for label, p, axis, shape in [("rows", 2.0, 1, (3, 5)), ("p = 1", 1.0, -1, (2, 3, 4)), ("p = 3", 3.0, 0, (4, 3)), ("largest", INF, 1, (3, 5))]:
        case("normalize", label, lambda x: F.normalize(x, p, axis), [make("normalize", shape)],
             {"p": "inf" if p == INF else p, "axis": axis})
    case("normalize", "a row of zeros", F.normalize, [t64(0, 0, 0, 1, 2, 2).reshape(2, 3)], {}, second=False)  # NaN in PyTorch
    for label, shape, o in [("images", (2, 6, 2, 3), {"size": 5}), ("even size", (2, 5, 3), {"size": 2, "alpha": 0.5, "beta": 0.5, "k": 2.0}),
                            ("wider than the channels", (1, 2, 4), {"size": 5, "alpha": 1.0})]:
        case("local_response_norm", label, lambda x: F.local_response_norm(x, **o), [make("lrn", shape)], o)
    mean, var = make("bn", (3,)), make("bn", (3,), 0.5, 2)

    def batch_norm_5(x, mean, var):
        mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, None, None, True), mean.detach(), var.detach()
    case("batch_norm", "rank 5", batch_norm_5, [make("bn", (2, 3, 2, 3, 2)), mean, var], {}, wrt=[0])

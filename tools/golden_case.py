"""Internal to golden.py: how a case is evaluated and written down, and the numbers that cases are made of."""
import math
import zlib

import torch

NAMES = {torch.float64: "float64", torch.int64: "int64", torch.int32: "int32", torch.uint8: "uint8", torch.int8: "int8", torch.bool: "bool"}
INF, NAN = math.inf, math.nan
CASES = []


def seed_like(y):
    n = y.numel()
    return torch.tensor([((i * 29 + 5) % 17 - 8) / 8 for i in range(n)], dtype=y.dtype).reshape(y.shape)


def number(x):
    return ("nan" if math.isnan(x) else "inf" if x > 0 else "-inf") if isinstance(x, float) and not math.isfinite(x) else x


def dump(t):
    if t is None:
        return None
    t = t.detach()
    t = t.double() if t.is_floating_point() else t
    return {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data": [number(x) for x in t.flatten().tolist()]}


def roundings(got, want):
    """The largest error in float32 roundings at the largest expected magnitude; null where infinities differ."""
    got, want = got.detach().double().flatten(), want.detach().double().flatten()
    finite = torch.isfinite(want)
    if want.numel() == 0:
        return 0.0
    if not torch.equal(torch.isfinite(got), finite):
        return None
    if not finite.any():
        return 0.0
    scale = max(0.125, want[finite].abs().max().item())
    return (got[finite] - want[finite]).abs().max().item() / (scale * 2.0**-24)


def evaluate(fn, inputs, wrt, dtype):
    inputs = [t.to(dtype) if t.is_floating_point() else t for t in inputs]
    leaves = [t.clone().requires_grad_() if i in wrt else t for i, t in enumerate(inputs)]
    out = fn(*leaves)
    out = [out] if isinstance(out, torch.Tensor) else list(out)
    grads = [None] * len(inputs)
    smooth = [y for y in out if y.requires_grad]
    if smooth:
        found = torch.autograd.grad(smooth, [leaves[i] for i in wrt], [seed_like(y) for y in smooth], allow_unused=True)
        for i, g in zip(wrt, found):
            grads[i] = g
    return out, grads


def direction(g):
    """What the first gradients are multiplied by: fixed eighths, other ones than those that come in."""
    n = g.numel()
    return torch.tensor([((i * 23 + 7) % 19 - 9) / 8 for i in range(n)], dtype=g.dtype).reshape(g.shape)


def evaluate_twice(fn, inputs, wrt, dtype):
    """Gradients of the sum over i of <direction, g_i>, where g_i is the gradient of input i, with respect to the inputs
    and to the incoming gradients; None where they do not depend on one or it is all zeros. A text if PyTorch has no such rule."""
    inputs = [t.to(dtype) if t.is_floating_point() else t for t in inputs]
    leaves = [t.clone().requires_grad_() if i in wrt else t for i, t in enumerate(inputs)]
    out = fn(*leaves)
    smooth = [y for y in ([out] if isinstance(out, torch.Tensor) else out) if y.requires_grad]
    seeds = [seed_like(y).requires_grad_() for y in smooth]
    try:
        first = torch.autograd.grad(smooth, [leaves[i] for i in wrt], seeds, allow_unused=True, create_graph=True) if smooth else []
        first = [g for g in first if g is not None and g.requires_grad]
        asked = [leaves[i] for i in wrt] + seeds
        found = torch.autograd.grad(first, asked, [direction(g) for g in first], allow_unused=True) if first else [None] * len(asked)
    except RuntimeError as e:
        if "derivative" not in str(e):
            raise
        return str(e).splitlines()[0]
    found = [g if g is not None and (g != 0).any() else None for g in found]
    of_input = dict(zip(wrt, found))
    return {"inputs": [of_input.get(i) for i in range(len(inputs))], "incoming": found[len(wrt):]}


def second_gradients(fn, inputs, wrt):
    """What a case stores of them: PyTorch's in float64 and the error of its float32 ones, or its words why not."""
    second = evaluate_twice(fn, inputs, wrt, torch.float64)
    if isinstance(second, str):
        return {"second": second}
    single = evaluate_twice(fn, inputs, wrt, torch.float32)
    error = {k: [None if g is None or h is None else roundings(h, g) for h, g in zip(single[k], second[k])] for k in second}
    return {"second": {k: [dump(g) for g in second[k]] for k in second}, "float32_second_error": error}


def case(op, label, fn, inputs, options=None, wrt=None, gradients=True, fn32=None, second=True):
    """fn32: what float32 should give where that is no rounding of the float64 result (random draws).
    second: False where PyTorch's second gradient is not to be met, or the same function in operations that have a better one."""
    if wrt is None:
        wrt = [i for i, t in enumerate(inputs) if t.is_floating_point()]
    wrt = wrt if gradients else []
    out, grads = evaluate(fn, inputs, wrt, torch.float64)
    out32, grads32 = evaluate(fn, inputs, wrt, torch.float32)
    assert not any(c["op"] == op and c["label"] == label for c in CASES), f"two cases {op} ({label})"
    CASES.append(({"outputs32": [dump(fn32(*inputs))]} if fn32 else {}) | {
        "op": op, "label": label, "options": options or {}, "wrt": wrt,
        "inputs": [dump(t) for t in inputs],
        "outputs": [dump(y) for y in out],
        "gradients": [dump(g) for g in grads],
        "float32_error": [roundings(a, b) for a, b in zip(out32, out)],
        "float32_gradient_error": [None if g is None else roundings(h, g) for h, g in zip(grads32, grads)],
    } | (second_gradients(second if callable(second) else fn, inputs, wrt) if second and any(g is not None for g in grads) else {}))


def make(op, shape, low=-2.0, high=2.0):
    """Reproducible numbers, exact in float32."""
    g = torch.Generator().manual_seed(zlib.crc32(f"{op}{shape}{len(CASES)}{low}".encode()))
    return (torch.rand(shape, generator=g, dtype=torch.float32) * (high - low) + low).double()


def t64(*values):
    return torch.tensor(values, dtype=torch.float64).float().double()


SPECIAL = t64(0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0)


def philox(seed, index, offset=0):
    """Philox4x32-10 (Salmon et al. 2011): key = seed, counter = (index, offset)."""
    c = [index & 0xffffffff, index >> 32, offset & 0xffffffff, offset >> 32]
    k = [seed & 0xffffffff, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xd2511f53 * c[0], 0xcd9e8d57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffffffff]
        k = [(k[0] + 0x9e3779b9) & 0xffffffff, (k[1] + 0xbb67ae85) & 0xffffffff]
    return c


def words32(n, seed):
    return [philox(seed, i // 4)[i % 4] for i in range(n)]


def words64(n, seed):
    w = words32(2 * n, seed)
    return [w[2 * i] | w[2 * i + 1] << 32 for i in range(n)]


def quantile(word, bits):
    """The normal whose sign is the top bit and whose tail's probability is the rest."""
    p = torch.tensor((2 * (word & (2 ** (bits - 1) - 1)) + 1) / 2.0 ** (bits + 1), dtype=torch.float64)
    return torch.special.ndtri(p).item() * (1 if word >> (bits - 1) else -1)

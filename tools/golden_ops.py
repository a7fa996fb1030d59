"""Internal to golden.py: the cases, op by op."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, SPECIAL, case, make, quantile, t64, words32, words64


def pointwise():
    unary = {
        "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "square": torch.square, "reciprocal": torch.reciprocal,
        "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "exp": torch.exp, "expm1": torch.expm1, "log": torch.log,
        "log1p": torch.log1p, "log2": torch.log2, "log10": torch.log10, "sin": torch.sin, "cos": torch.cos,
        "tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh,
        "cosh": torch.cosh, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "silu": F.silu,
        "gelu": F.gelu, "erf": torch.erf, "softplus": lambda x: F.softplus(x, threshold=1e9), "floor": torch.floor,
        "ceil": torch.ceil, "round": torch.round, "trunc": torch.trunc,
    }
    domains = {"sqrt": (0.1, 4), "rsqrt": (0.1, 4), "log": (0.1, 4), "log2": (0.1, 4), "log10": (0.1, 4), "log1p": (-0.7, 4),
               "reciprocal": (0.3, 3), "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "tan": (-1.2, 1.2)}
    # Where PyTorch's gradient formula itself makes NaN or another choice of subgradient, values alone are compared.
    values_only = {"silu", "gelu", "asin", "acos", "softplus", "sigmoid", "tanh", "erf", "rsqrt", "cosh", "sinh"}
    for op, fn in unary.items():
        low, high = domains.get(op, (-3, 3))
        case(op, "ordinary", fn, [make(op, (3, 5), low, high)])
        case(op, "special", fn, [SPECIAL], gradients=op not in values_only)
        case(op, "empty", fn, [torch.empty(0, 3, dtype=torch.float64)])

    binary = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "fmod": torch.fmod,
        "remainder": torch.remainder, "atan2": torch.atan2, "maximum": torch.maximum, "minimum": torch.minimum, "pow": torch.pow,
    }
    left = SPECIAL[:8].repeat_interleave(8)
    right = SPECIAL[:8].repeat(8)
    for op, fn in binary.items():
        low = 0.3 if op in ("pow", "div", "fmod", "remainder") else -3
        first = make(op, (2, 3, 4), 0.3 if op == "pow" else -3, 3)
        case(op, "broadcast", fn, [first, make(op, (3, 1), low, 3)])
        case(op, "0-d", fn, [first[0, 0, 0], make(op, (4,), low, 3)])
        smooth = op in ("add", "sub", "maximum", "minimum")
        case(op, "special pairs", fn, [left, right], gradients=smooth)
    case("maximum", "ties", torch.maximum, [t64(1, 2, -1, 0, 0), t64(1, 1, -1, -0.0, 3)])
    case("minimum", "ties", torch.minimum, [t64(1, 2, -1, 0, 0), t64(1, 1, -1, -0.0, 3)])
    case("pow", "whole exponents", torch.pow, [t64(-2, -1.5, 0, 0, 0, 3, -3), t64(3, 2, 0, 2, 1, -1, -2)], wrt=[0])
    for op, fn in {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
                   "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor}.items():
        case(op, "special pairs", fn, [left, right], gradients=False)
        case(op, "int64", fn, [torch.tensor([[1, 2, 0]]), torch.tensor([[2], [0]])], gradients=False)
    for op, fn in {"isnan": torch.isnan, "isinf": torch.isinf, "isfinite": torch.isfinite, "logical_not": torch.logical_not}.items():
        case(op, "special", fn, [SPECIAL], gradients=False)

    integers = torch.tensor([-7, -3, -1, 0, 1, 2, 5, 8])
    others = torch.tensor([3, -2, 4, 7, -5, 1, 2, -3])
    bits = {"bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor}
    for op, fn in bits.items():
        case(op, "int64", fn, [integers, others])
        case(op, "bool", fn, [integers > 0, others > 0])
        case(op, "uint8", fn, [integers.to(torch.uint8), others.to(torch.uint8)])
        case(op, "int8", fn, [integers.to(torch.int8), others.to(torch.int8)])
    case("bitwise_not", "int64", torch.bitwise_not, [integers])
    case("bitwise_not", "bool", torch.bitwise_not, [integers > 0])
    for op in ("add", "sub", "mul", "fmod", "remainder", "maximum", "minimum"):
        case(op, "int32", binary[op], [integers.int(), others.int()])
        case(op, "uint8", binary[op], [integers.to(torch.uint8), others.abs().to(torch.uint8)])
        case(op, "int8", binary[op], [(integers * 17).to(torch.int8), (others * 9).to(torch.int8)])
        case(op, "mixed", binary[op], [others.int(), make(op, (8,), 0.3, 3)])

    a, b, c = (make("fma", (2, 5)) for _ in range(3))
    case("fma", "ordinary", lambda a, b, c: (a.double() * b.double() + c.double()).to(a.dtype), [a, b, c])
    case("clamp", "ordinary", torch.clamp, [make("clamp", (4, 5), -3, 3), t64(-1.0), make("clamp", (5,), 0, 2)])
    case("clamp", "ties and special", torch.clamp, [SPECIAL, t64(-1.0), t64(1.0)], wrt=[0])
    case("clamp", "crossed", torch.clamp, [t64(-3, -1, 0, 1, 3), t64(1.0), t64(-1.0)])
    mask = torch.tensor([[True, False, True], [False, False, True]])
    case("where", "broadcast", torch.where, [mask, make("where", (2, 3)), make("where", (3,))])
    case("where", "NaN not chosen", torch.where, [mask, t64(1, NAN, 2), t64(NAN, 5, INF)])


def reductions():
    x = make("reduce", (2, 3, 4))
    axes = [[], [0], [1], [-1], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    full = lambda a: tuple(a) if a else (0, 1, 2)
    over = {
        "sum": lambda x, a, k: torch.sum(x, full(a), keepdim=k),
        "mean": lambda x, a, k: torch.mean(x, full(a), keepdim=k),
        "amax": lambda x, a, k: torch.amax(x, full(a), keepdim=k),
        "amin": lambda x, a, k: torch.amin(x, full(a), keepdim=k),
        "logsumexp": lambda x, a, k: torch.logsumexp(x, full(a), keepdim=k),
    }
    for op, fn in over.items():
        for a in axes:
            for keepdim in (False, True):
                case(op, f"axes {a} keepdim {keepdim}", lambda x: fn(x, a, keepdim), [x], {"axes": a, "keepdim": keepdim})
        one = lambda x: fn(x.reshape(1, 1, -1), [2], False).reshape(())
        case(op, "special", one, [SPECIAL], {"axes": [0]}, gradients=op == "sum")
        for v in (INF, -INF, NAN):
            case(op, f"with {v}", one, [t64(1, v, 2)], {"axes": [0]}, gradients=False)
        case(op, "one element", lambda x: x.sum() * 1 if op != "logsumexp" else torch.logsumexp(x, 0), [t64(0.75)], {})
    case("sum", "empty", lambda x: x.sum(0), [torch.empty(0, 3, dtype=torch.float64)], {"axes": [0]})
    case("mean", "empty", lambda x: x.mean(0), [torch.empty(0, 3, dtype=torch.float64)], {"axes": [0]})
    case("sum", "bool", lambda x: x.sum(0), [torch.tensor([[True, False], [True, True]])], {"axes": [0]})
    case("sum", "int32", lambda x: x.sum(), [torch.tensor([2**30, 2**30, 2**30], dtype=torch.int32)], {})
    case("amax", "ties", lambda x: torch.amax(x, 1), [t64(1, 3, 3, 3, 0, 3).reshape(2, 3)], {"axes": [1]})
    case("amin", "ties", lambda x: torch.amin(x, 1), [t64(1, 1, 3, 0, 0, 0).reshape(2, 3)], {"axes": [1]})
    case("norm", "axes", lambda x: torch.linalg.vector_norm(x, 2, (0, 2)), [x], {"axes": [0, 2]})
    case("norm", "of zeros", lambda x: torch.linalg.vector_norm(x, 2), [t64(0, 0, 0)], {})
    case("norm", "special", lambda x: torch.linalg.vector_norm(x, 2), [t64(1, INF, 2)], {}, gradients=False)
    for op, fn in {"var": torch.var, "std": torch.std}.items():
        for a in axes:
            for correction in (0, 1):
                case(op, f"axes {a} correction {correction}", lambda x: fn(x, full(a), correction=correction, keepdim=correction == 0), [x],
                     {"axes": a, "keepdim": correction == 0, "correction": correction})
        case(op, "one element", lambda x: fn(x, 1, correction=1), [make(op, (3, 1))], {"axes": [1], "correction": 1}, gradients=False)
        case(op, "one element, biased", lambda x: fn(x, 1, correction=0), [make(op, (3, 1))], {"axes": [1], "correction": 0}, gradients=False)
        case(op, "far from zero", lambda x: fn(x, 0, correction=1), [make(op, (50,), 999, 1001)], {"axes": [0], "correction": 1})
    for op, fn in {"argmax": torch.argmax, "argmin": torch.argmin}.items():
        for axis in (0, 1, -1):
            case(op, f"axis {axis}", lambda x: fn(x, axis), [x], {"axes": [axis]}, gradients=False)
        case(op, "all", lambda x: fn(x), [x], {"axes": []}, gradients=False)
        case(op, "ties", lambda x: fn(x, 1), [t64(1, 3, 3, 0, 0, 0).reshape(2, 3)], {"axes": [1]}, gradients=False)
        case(op, "NaN", lambda x: fn(x, 0), [t64(1, NAN, 3, NAN)], {"axes": [0]}, gradients=False)
    case("prod", "all", lambda x: torch.prod(x), [make("prod", (5,), 0.5, 2)], {"axes": []})
    case("prod", "axis", lambda x: torch.prod(x, 1), [make("prod", (2, 4), -2, 2)], {"axes": [1]})
    case("prod", "zeros", lambda x: torch.prod(x, 1), [t64(1, 2, 3, 1, 0, 3, 0, 0, 2).reshape(3, 3)], {"axes": [1]})
    for op, fn in {"any": torch.any, "all": torch.all}.items():
        mask = torch.tensor([[True, False], [True, True], [False, False]])
        case(op, "axis", lambda x: fn(x, 1), [mask], {"axes": [1]})
        case(op, "all axes", lambda x: fn(x), [mask], {"axes": []})


def shapes():
    x = make("view", (2, 3, 4))
    case("reshape", "with -1", lambda x: x.reshape(6, 4), [x], {"shape": [-1, 4]})
    case("flatten", "1 to 2", lambda x: x.flatten(1, 2), [x], {"from": 1, "to": 2})
    case("permute", "rotation", lambda x: x.permute(1, 2, 0), [x], {"order": [1, 2, 0]})
    case("transpose", "last", lambda x: x.transpose(1, 2), [x], {"axes": [1, 2]})
    case("expand", "new and repeated", lambda x: x.expand(2, 3, 4), [make("expand", (3, 1))], {"shape": [2, 3, 4]})
    case("unsqueeze", "middle", lambda x: x.unsqueeze(1), [x], {"axis": 1})
    case("squeeze", "middle", lambda x: x.squeeze(1), [make("squeeze", (3, 1, 2))], {"axis": 1})
    case("narrow", "middle", lambda x: x.narrow(2, 1, 2), [x], {"axis": 2, "start": 1, "length": 2})
    case("slice", "step 2", lambda x: x[:, :, 0:4:2], [x], {"axis": 2, "start": 0, "stop": 4, "step": 2})
    case("slice", "backwards", lambda x: x.flip(1)[:, 0:2], [x], {"axis": 1, "start": -1, "stop": 0, "step": -1})
    case("select", "last", lambda x: x.select(1, -1), [x], {"axis": 1, "index": -1})
    case("flip", "two axes", lambda x: x.flip(0, 2), [x], {"axes": [0, 2]})
    case("contiguous", "of a transpose", lambda x: x.transpose(0, 2).contiguous(), [x], {})
    case("slice_scatter", "every second", lambda p: torch.slice_scatter(torch.zeros(2, 7, dtype=p.dtype), p, 1, 1, 6, 2),
         [make("slice_scatter", (2, 3))], {"shape": [2, 7], "axis": 1, "start": 1, "step": 2})
    case("cat", "axis 1", lambda a, b, c: torch.cat([a, b, c], 1), [make("cat", (2, 3)), make("cat", (2, 0)), make("cat", (2, 2))], {"axis": 1})
    case("cat", "axis -3", lambda a, b: torch.cat([a, b], -3), [x, x * 2], {"axis": -3})
    case("stack", "axis -1", lambda a, b: torch.stack([a, b], -1), [x, x + 1], {"axis": -1})
    index = torch.tensor([[0, 1, 1], [2, 0, 0]])
    case("gather", "axis 1, repeated", lambda x, i: torch.gather(x, 1, i), [make("gather", (2, 4)), index], {"axis": 1}, wrt=[0])
    case("scatter_add", "axis 1, repeated", lambda x, i, s: torch.scatter_add(x, 1, i, s),
         [make("scatter", (2, 4)), index, make("scatter", (2, 3))], {"axis": 1}, wrt=[0, 2])
    case("index_select", "repeated", lambda x, i: torch.index_select(x, 1, i), [x, torch.tensor([2, 0, 0])], {"axis": 1}, wrt=[0])
    case("embedding", "repeated", lambda w, i: F.embedding(i, w), [make("embedding", (4, 3)), torch.tensor([[1, 1], [3, 0]])], wrt=[0])


def edges():
    """No elements, and no axes."""
    dot, none, some = make("edges", ()), torch.empty(2, 0, 3, dtype=torch.float64), make("edges", (2, 3))
    case("reshape", "0-d", lambda x: x.reshape(1, 1), [dot], {"shape": [1, 1]})
    case("reshape", "to 0-d", lambda x: x.reshape(()), [make("edges", (1, 1))], {"shape": []})
    case("reshape", "empty", lambda x: x.reshape(3, 0, 1), [none], {"shape": [3, 0, 1]})
    case("flatten", "0-d", lambda x: x.flatten(), [dot], {"from": 0, "to": -1})
    case("flatten", "empty", lambda x: x.flatten(1), [none], {"from": 1, "to": -1})
    case("permute", "0-d", lambda x: x.permute(()), [dot], {"order": []})
    case("permute", "empty", lambda x: x.permute(2, 0, 1), [none], {"order": [2, 0, 1]})
    case("transpose", "empty", lambda x: x.transpose(0, 2), [none], {"axes": [0, 2]})
    case("expand", "0-d", lambda x: x.expand(2, 3), [dot], {"shape": [2, 3]})
    case("expand", "empty", lambda x: x.expand(4, 0), [torch.empty(1, 0, dtype=torch.float64)], {"shape": [4, 0]})
    case("expand", "to nothing", lambda x: x.expand(0, 3), [make("edges", (1, 3))], {"shape": [0, 3]})
    case("unsqueeze", "0-d", lambda x: x.unsqueeze(0), [dot], {"axis": 0})
    case("unsqueeze", "empty", lambda x: x.unsqueeze(-1), [none], {"axis": -1})
    case("squeeze", "empty", lambda x: x.squeeze(0), [torch.empty(1, 0, dtype=torch.float64)], {"axis": 0})
    case("narrow", "nothing", lambda x: x.narrow(1, 2, 0), [some], {"axis": 1, "start": 2, "length": 0})
    case("slice", "nothing", lambda x: x[:, 2:1], [some], {"axis": 1, "start": 2, "stop": 1, "step": 1})
    case("slice", "beyond the ends", lambda x: x[:, -9:9], [some], {"axis": 1, "start": -9, "stop": 9, "step": 1})
    case("select", "from an empty rest", lambda x: x.select(0, 1), [none], {"axis": 0, "index": 1})
    case("flip", "empty", lambda x: x.flip(1), [none], {"axes": [1]})
    case("slice_scatter", "nothing", lambda p: torch.slice_scatter(torch.zeros(2, 4, dtype=p.dtype), p, 1, 1, 1),
         [torch.empty(2, 0, dtype=torch.float64)], {"shape": [2, 4], "axis": 1, "start": 1, "step": 1})
    nowhere = torch.empty(2, 0, dtype=torch.int64)
    case("gather", "nothing", lambda x, i: torch.gather(x, 1, i), [some, nowhere], {"axis": 1}, wrt=[0])
    case("scatter_add", "nothing", lambda x, i, s: torch.scatter_add(x, 1, i, s),
         [some, nowhere, torch.empty(2, 0, dtype=torch.float64)], {"axis": 1}, wrt=[0, 2])
    case("index_select", "nothing", lambda x, i: torch.index_select(x, 0, i), [some, nowhere[0]], {"axis": 0}, wrt=[0])
    case("one_hot", "nothing", lambda i: F.one_hot(i, 4), [nowhere], {"classes": 4})
    pair = [torch.empty(0, 3, dtype=torch.float64)] * 2
    for reduction in ("mean", "sum", "none"):
        o = {"reduction": reduction}
        case("mse_loss", f"empty, {reduction}", lambda a, b: F.mse_loss(a, b, **o), pair, o)
        case("l1_loss", f"empty, {reduction}", lambda a, b: F.l1_loss(a, b, **o), pair, o)
        case("nll_loss", f"no rows, {reduction}", lambda x, t, w: F.nll_loss(x, t, w, **o),
             [pair[0], nowhere[0], torch.ones(3, dtype=torch.float64)], o | {"weight": True}, wrt=[0])
        case("cross_entropy", f"no rows, {reduction}", lambda x, t: F.cross_entropy(x, t, **o), [pair[0], nowhere[0]], o, wrt=[0])
    for a, b in (((), (3,)), ((0,), (0,))):
        case("mul", f"edges {list(a)}", torch.mul, [make("edges", a), make("edges", b)])
    case("max_pool2d", "no pictures", lambda x: F.max_pool2d(x, 2), [torch.empty(0, 2, 4, 4, dtype=torch.float64)], {"kernel": [2, 2]})
    case("avg_pool2d", "no pictures", lambda x: F.avg_pool2d(x, 2), [torch.empty(0, 2, 4, 4, dtype=torch.float64)], {"kernel": [2, 2]})
    case("layer_norm", "no rows", lambda x, w, b: F.layer_norm(x, (3,), w, b),
         [pair[0], make("edges", (3,)), make("edges", (3,))], {"normalized": [3]})
    case("softmax", "0-d", lambda x: torch.softmax(x, 0), [dot], {"axis": 0})
    case("log_softmax", "empty", lambda x: torch.log_softmax(x, 1), [none], {"axis": 1})


def products():
    pairs = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((5, 2, 3), (3, 4)),
             ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((1, 2, 3), (4, 3, 1)), ((0, 3), (3, 2)),
             ((2, 0), (0, 3)), ((2, 3), (3, 0)), ((1, 1), (1, 1)), ((7, 33), (33, 17))]
    for a, b in pairs:
        case("matmul", f"{list(a)} {list(b)}", torch.matmul, [make("matmul", a), make("matmul", b)])
    case("matmul", "NaN and Inf", torch.matmul, [t64(1, NAN, 2, 3, 0, 1).reshape(3, 2), t64(1, 0, INF, 2).reshape(2, 2)], gradients=False)
    case("matmul", "int64", torch.matmul, [torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4)])
    case("linear", "bias", F.linear, [make("linear", (2, 5, 3)), make("linear", (4, 3)), make("linear", (4,))])
    case("linear", "no bias", F.linear, [make("linear", (5, 3)), make("linear", (4, 3))])
    case("linear", "one row", F.linear, [make("linear", (3,)), make("linear", (4, 3)), make("linear", (4,))])
    conv = [
        ("plain", (2, 3, 6, 5), (4, 3, 3, 3), {}, True), ("no bias", (1, 2, 5, 5), (3, 2, 2, 3), {}, False),
        ("stride", (1, 2, 7, 8), (3, 2, 3, 3), {"stride": [2, 3]}, True), ("padding", (2, 2, 4, 5), (3, 2, 3, 3), {"padding": [1, 2]}, True),
        ("dilation", (1, 2, 7, 8), (2, 2, 3, 2), {"dilation": [2, 3]}, True), ("groups", (2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2}, True),
        ("depthwise", (2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "padding": [1, 1]}, True),
        ("stride over kernel", (1, 2, 9, 9), (3, 2, 2, 2), {"stride": [3, 4]}, True),
        ("1x1", (2, 3, 4, 4), (5, 3, 1, 1), {"stride": [2, 2]}, True),
        ("all at once", (2, 4, 9, 8), (6, 2, 3, 2), {"stride": [2, 1], "padding": [2, 1], "dilation": [2, 3], "groups": 2}, True),
        ("no pictures", (0, 3, 6, 5), (4, 3, 3, 3), {}, True)]
    for label, x, w, o, bias in conv:
        inputs = [make("conv", x), make("conv", w)] + ([make("conv", (w[0],))] if bias else [])
        case("conv2d", label, lambda x, w, b=None: F.conv2d(x, w, b, **o), inputs, o)
    pools = [("plain", (2, 3, 6, 6), {"kernel": [2, 2]}), ("ragged", (1, 2, 7, 5), {"kernel": [3, 2]}),
             ("stride", (1, 2, 7, 7), {"kernel": [3, 3], "stride": [2, 1]}), ("padding", (1, 2, 6, 5), {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 1]}),
             ("stride over kernel", (1, 1, 9, 9), {"kernel": [2, 2], "stride": [3, 4]})]
    pools += [("ceil", (1, 2, 6, 8), {"kernel": [3, 3], "stride": [2, 2], "ceil_mode": True}),
              ("ceil and padding", (1, 2, 6, 7), {"kernel": [3, 2], "stride": [2, 3], "padding": [1, 1], "ceil_mode": True})]
    for label, shape, o in pools:
        args = {"kernel_size": o["kernel"], "stride": o.get("stride"), "padding": o.get("padding", 0), "ceil_mode": o.get("ceil_mode", False)}
        case("max_pool2d", label, lambda x: F.max_pool2d(x, **args), [make("pool", shape)], o)
        case("avg_pool2d", label, lambda x: F.avg_pool2d(x, **args), [make("pool", shape)], o)
    case("max_pool2d", "dilation", lambda x: F.max_pool2d(x, [2, 3], [1, 2], 1, [2, 1]), [make("pool", (2, 2, 7, 8))],
         {"kernel": [2, 3], "stride": [1, 2], "padding": [1, 1], "dilation": [2, 1]})
    case("max_pool2d", "ties", lambda x: F.max_pool2d(x, 2), [torch.ones(1, 1, 4, 4, dtype=torch.float64)], {"kernel": [2, 2]})
    case("max_pool2d", "NaN and -Inf", lambda x: F.max_pool2d(x, 2), [t64(1, NAN, -INF, -INF, 2, 3, -INF, -INF).reshape(1, 1, 2, 4)], {"kernel": [2, 2]})
    case("avg_pool2d", "padding not counted", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), [make("pool", (1, 2, 6, 5))],
         {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1], "count_include_pad": False})


def networks():
    x = make("softmax", (3, 5), -4, 4)
    for op, fn in {"softmax": torch.softmax, "log_softmax": torch.log_softmax}.items():
        case(op, "rows", lambda x: fn(x, -1), [x], {"axis": -1})
        case(op, "columns", lambda x: fn(x, 0), [x], {"axis": 0})
        case(op, "middle", lambda x: fn(x, 1), [make(op, (2, 3, 4))], {"axis": 1})
        case(op, "large", lambda x: fn(x, 1), [make(op, (2, 6), -500, 500)], {"axis": 1})
        rows = t64(-INF, 1, 2, -INF, -INF, -INF, INF, 1, 2, NAN, 1, 2).reshape(4, 3)
        case(op, "rows of -Inf, Inf, NaN", lambda x: fn(x, 1), [rows], {"axis": 1}, gradients=False)
        case(op, "part -Inf", lambda x: fn(x, 1), [t64(-INF, 1, 2).reshape(1, 3)], {"axis": 1})
        case(op, "one class", lambda x: fn(x, 1), [make(op, (4, 1))], {"axis": 1})

    z, target = make("ce", (6, 5), -3, 3), torch.tensor([1, 4, 0, 0, 2, 3])
    some = torch.tensor([1, -100, 0, -100, 2, 3])
    weight = make("weight", (5,), 0.5, 2)
    for reduction in ("mean", "sum", "none"):
        for label, t, o in [("plain", target, {}), ("some ignored", some, {}), ("weighted", some, {"weight": True}),
                            ("smoothed", some, {"label_smoothing": 0.2}), ("weighted and smoothed", some, {"weight": True, "label_smoothing": 0.3}),
                            ("ignore 0", target, {"ignore_index": 0}), ("all ignored", some * 0 - 100, {})]:
            o = o | {"reduction": reduction}
            args = {"reduction": reduction, "label_smoothing": o.get("label_smoothing", 0.0), "ignore_index": o.get("ignore_index", -100)}
            inputs = [z, t] + ([weight] if o.get("weight") else [])
            case("cross_entropy", f"{label}, {reduction}", lambda z, t, w=None: F.cross_entropy(z, t, w, **args), inputs, o, wrt=[0],
                 gradients=not (label == "all ignored" and reduction == "mean"))
        probabilities = torch.softmax(make("ce", (4, 5)), 1).float().double()
        case("cross_entropy", f"probabilities, {reduction}", lambda z, p, w: F.cross_entropy(z, p, w, reduction=reduction, label_smoothing=0.1),
             [make("ce", (4, 5)), probabilities, weight], {"reduction": reduction, "label_smoothing": 0.1, "weight": True}, wrt=[0, 1])
        log_p = torch.log_softmax(z, 1).float().double()
        case("nll_loss", f"some ignored, {reduction}", lambda x, t, w: F.nll_loss(x, t, w, reduction=reduction), [log_p, some, weight],
             {"reduction": reduction, "weight": True}, wrt=[0])
        a, b = make("loss", (3, 4)), make("loss", (3, 4))
        case("mse_loss", reduction, lambda a, b: F.mse_loss(a, b, reduction=reduction), [a, b], {"reduction": reduction})
        case("l1_loss", reduction, lambda a, b: F.l1_loss(a, b, reduction=reduction), [a, b], {"reduction": reduction})
        chances, pos = make("bce", (3, 4), 0, 1), make("bce", (4,), 0.5, 2)
        case("bce_with_logits", reduction,
             lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, reduction=reduction, pos_weight=p),
             [make("bce", (3, 4), -30, 30), chances, make("bce", (4,), 0.5, 2), pos], {"reduction": reduction}, wrt=[0])
    case("cross_entropy", "pictures", F.cross_entropy, [make("ce", (2, 5, 3, 2)), torch.arange(12).reshape(2, 3, 2) % 5], wrt=[0])
    case("cross_entropy", "one row", F.cross_entropy, [z[0], target[0]], wrt=[0])
    case("cross_entropy", "-Inf beside the target", F.cross_entropy, [t64(1, -INF, 2, 0.5, 1, -INF).reshape(2, 3), torch.tensor([0, 1])], wrt=[0])

    def batch_norm(x, mean, var, w=None, b=None, training=True, momentum=0.1, eps=1e-5):
        mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, w, b, training, momentum, eps), mean.detach(), var.detach()
    mean, var = make("bn", (3,)), make("bn", (3,), 0.5, 2)
    w, b = make("bn", (3,)), make("bn", (3,))
    for label, shape, o, affine in [("training", (2, 3, 4, 5), {}, True), ("evaluation", (2, 3, 4, 5), {"training": False}, True),
                                    ("rank 2", (6, 3), {"momentum": 0.3}, True), ("rank 3, no parameters", (2, 3, 4), {"eps": 0.01}, False),
                                    ("two values", (2, 3), {}, True)]:
        case("batch_norm", label, lambda *a: batch_norm(*a, **o), [make("bn", shape), mean, var] + ([w, b] if affine else []), o,
             wrt=[0] + ([3, 4] if affine else []))
    case("batch_norm", "constant channel", batch_norm, [torch.full((2, 3, 2), 1.5, dtype=torch.float64), mean, var, w, b], {}, wrt=[0, 3, 4])
    for label, shape, normal, o in [("rows", (4, 6), (6,), {}), ("two axes", (2, 3, 4), (3, 4), {"eps": 0.1}), ("one element", (3, 1), (1,), {})]:
        case("layer_norm", label, lambda x, w, b: F.layer_norm(x, normal, w, b, **o), [make("ln", shape), make("ln", normal), make("ln", normal)],
             o | {"normalized": list(normal)})
    case("layer_norm", "no parameters", lambda x: F.layer_norm(x, (5,)), [make("ln", (2, 5))], {"normalized": [5]})
    y = make("dropout", (3, 4))
    keep = torch.tensor([w / 2**32 < 0.6 for w in words32(12, 5)]).reshape(3, 4)
    case("dropout", "p = 0.4, seed 5", lambda x: torch.where(keep, x * (1 / 0.6), 0.0), [y], {"p": 0.4, "training": True, "seed": 5})
    case("dropout", "evaluation", lambda x: F.dropout(x, 0.4, False), [y], {"p": 0.4, "training": False})
    case("dropout", "p = 0", lambda x: F.dropout(x, 0.0, True), [y], {"p": 0.0, "training": True})
    case("dropout", "p = 1", lambda x: F.dropout(x, 1.0, True), [y], {"p": 1.0, "training": True})


def creations():
    f = lambda values: torch.tensor(values, dtype=torch.float64)
    case("full", "2.5", lambda: torch.full((2, 3), 2.5).double(), [], {"shape": [2, 3], "value": 2.5})
    case("full", "inf", lambda: torch.full((2,), INF).double(), [], {"shape": [2], "value": "inf"})
    case("arange", "whole steps", lambda: torch.arange(-3, 9, 2, dtype=torch.float64), [], {"start": -3, "stop": 9, "step": 2})
    case("arange", "backwards", lambda: torch.arange(1, -2, -0.25, dtype=torch.float64), [], {"start": 1, "stop": -2, "step": -0.25})
    case("linspace", "seven", lambda: torch.linspace(-1, 2, 7, dtype=torch.float64), [], {"start": -1, "stop": 2, "count": 7})
    case("linspace", "one", lambda: torch.linspace(5, 2, 1, dtype=torch.float64), [], {"start": 5, "stop": 2, "count": 1})
    case("eye", "wide", lambda: torch.eye(2, 4, dtype=torch.float64), [], {"shape": [2, 4]})
    case("one_hot", "classes", lambda i: F.one_hot(i, 4), [torch.tensor([[0, 3], [1, 1]])], {"classes": 4})
    seed, n = 2**40 + 11, 10
    o = {"seed": seed, "shape": [n]}
    uniform64 = f([(w >> 11) / 2.0**53 for w in words64(n, seed)])
    uniform32 = f([(w >> 8) / 2.0**24 for w in words32(n, seed)])
    normal64 = f([quantile(w, 64) for w in words64(n, seed)])
    normal32 = f([quantile(w, 32) for w in words32(n, seed)])
    case("rand", "seeded", lambda: uniform64, [], o, fn32=lambda: uniform32)
    case("uniform", "seeded", lambda: uniform64 * 3 - 1, [], o | {"low": -1, "high": 2}, fn32=lambda: uniform32 * 3 - 1)
    case("randn", "seeded", lambda: normal64, [], o, fn32=lambda: normal32)
    case("normal", "seeded", lambda: normal64 * 0.5 + 2, [], o | {"mean": 2, "std": 0.5}, fn32=lambda: normal32 * 0.5 + 2)
    case("randint", "seeded", lambda: torch.tensor([-5 + (w * 17 >> 64) for w in words64(n, seed)]), [], o | {"low": -5, "high": 12})
    case("bernoulli", "seeded", lambda: torch.tensor([w / 2**32 < 0.3 for w in words32(n, seed)]), [], o | {"p": 0.3})
    case("randperm", "seeded", lambda: torch.tensor(sorted(range(n), key=lambda i: words64(n, seed)[i])), [], o)


PARTS = (pointwise, reductions, shapes, edges, products, networks, creations)

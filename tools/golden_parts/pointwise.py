"""Pointwise ops: ordinary and special values, ties, integers."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, SPECIAL, case, make, t64


def cases():
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

"""Special functions, choices, integer functions and activations: ordinary and special values, kinks, ties."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, SPECIAL, case, make, t64

KINKS = t64(0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 20.0, -20.0)


def special_functions():
    unary = {
        "exp2": (torch.exp2, (-3, 3)), "asinh": (torch.asinh, (-3, 3)), "acosh": (torch.acosh, (1.1, 4)),
        "atanh": (torch.atanh, (-0.9, 0.9)), "erfc": (torch.erfc, (-3, 3)), "erfinv": (torch.erfinv, (-0.95, 0.95)),
        "lgamma": (torch.lgamma, (0.2, 6)), "digamma": (torch.digamma, (0.2, 12)), "sinc": (torch.sinc, (-3, 3)),
        "logit": (torch.logit, (0.05, 0.95)), "frac": (torch.frac, (-3, 3)), "deg2rad": (torch.deg2rad, (-180, 180)),
        "rad2deg": (torch.rad2deg, (-3, 3)),
    }
    for op, (fn, (low, high)) in unary.items():
        case(op, "ordinary", fn, [make(op, (4, 5), low, high)], gradients=op != "digamma")
        case(op, "special", fn, [SPECIAL], gradients=op in ("exp2", "frac", "deg2rad", "rad2deg"))
        case(op, "empty", fn, [torch.empty(0, 3, dtype=torch.float64)])
    case("erfc", "tail", torch.erfc, [make("erfc", (12,), 3, 8)])
    case("erfinv", "tail", torch.erfinv, [t64(0.999, -0.9999, 0.99999, 1, -1)], gradients=False)
    case("lgamma", "below 0 and large", torch.lgamma, [t64(-0.5, -1.5, -2.75, 30, 1e5, 1e-5)])
    case("digamma", "below 0, small and large", torch.digamma, [t64(-0.5, -1.25, -2.75, 1e-3, 1.4375, 1.5, 30, 1e5)], gradients=False)
    case("sinc", "near 0", torch.sinc, [t64(0.3, -0.3, 0.125, -0.2)])
    case("logit", "about 1/2", torch.logit, [t64(0.5, 0.499, 0.5001, 0.25, 0.75)])
    case("logit", "eps", lambda x: torch.logit(x, 0.125), [t64(-1, 0, 0.0625, 0.25, 0.5, 0.9375, 1, 2)], {"eps": 0.125}, gradients=False)
    # PyTorch's trigamma ends its series early and is right to 1e-9 for small numbers; for large ones the end does not matter.
    case("digamma", "large", torch.digamma, [make("digamma", (9,), 60, 150)])
    for n in (0, 1, 2, 3, 5):
        x = make("polygamma", (9,), *((60, 150) if n < 2 else (0.3, 12)))
        case("polygamma", f"order {n}", lambda n, x: torch.polygamma(int(n[0]), x), [torch.full((9,), float(n), dtype=torch.float64), x], wrt=[1])
    case("polygamma", "order 1, special", lambda n, x: torch.polygamma(1, x), [t64(1, 1, 1), t64(0, 1e4, INF)], gradients=False)
    case("polygamma", "order 2, below 0", lambda n, x: torch.polygamma(2, x), [torch.full((4,), 2.0, dtype=torch.float64), t64(-0.25, -1.25, -2.75, -3.5)],
         gradients=False)


def binary_functions():
    left, right = SPECIAL[:8].repeat_interleave(8), SPECIAL[:8].repeat(8)
    binary = {
        "floor_divide": (torch.floor_divide, 0.3), "hypot": (torch.hypot, -3), "logaddexp": (torch.logaddexp, -3),
        "logaddexp2": (torch.logaddexp2, -3), "xlogy": (torch.xlogy, 0.3), "xlog1py": (torch.special.xlog1py, -0.7),
        "fmax": (torch.fmax, -3), "fmin": (torch.fmin, -3), "copysign": (torch.copysign, -3), "heaviside": (torch.heaviside, -3),
    }
    for op, (fn, low) in binary.items():
        smooth = op not in ("floor_divide", "heaviside")
        first = make(op, (2, 3, 4), -3, 3)
        case(op, "broadcast", fn, [first, make(op, (3, 1), low, 3)], gradients=smooth)
        case(op, "0-d", fn, [first[0, 0, 0], make(op, (4,), low, 3)], gradients=smooth)
        case(op, "special pairs", fn, [left, right], gradients=False)
    pair = [t64(1, 2, -1, 0, 0, NAN, 3), t64(1, 1, -1, -0.0, 3, 2, NAN)]
    case("fmax", "ties and NaN", torch.fmax, pair)
    case("fmin", "ties and NaN", torch.fmin, pair)
    case("copysign", "zeros", torch.copysign, [t64(0, -0.0, 1, -2, 3), t64(-1, 1, -0.0, 0.0, -2)], second=False)  # NaN in PyTorch
    case("xlogy", "zeros", torch.xlogy, [t64(0, 0, 2), t64(-1, 1, 3)])
    case("lerp", "broadcast", torch.lerp, [make("lerp", (2, 3, 4)), make("lerp", (3, 4)), make("lerp", (4,), -0.5, 1.5)])
    case("lerp", "ends", torch.lerp, [t64(1, 1, 1, INF, 2), t64(3, 3, 3, 1, -INF), t64(0, 1, 0.5, 0.25, 1)], gradients=False)
    for op, fn in {"isposinf": torch.isposinf, "isneginf": torch.isneginf, "signbit": torch.signbit}.items():
        case(op, "special", fn, [SPECIAL], gradients=False)
        case(op, "int64", fn, [torch.tensor([-3, 0, 5])], gradients=False)

    integers = torch.tensor([-7, -3, -1, 0, 1, 2, 5, 8])
    others = torch.tensor([3, -2, 4, 7, -5, 1, 2, -3])
    for op, (fn, _) in binary.items():
        if op in ("floor_divide", "heaviside", "fmax", "fmin"):
            for t in (torch.int64, torch.int32, torch.int8):
                case(op, str(t)[6:], fn, [integers.to(t), others.to(t)], gradients=False)
            case(op, "uint8", fn, [integers.abs().to(torch.uint8), others.abs().to(torch.uint8)], gradients=False)
    for op, fn in {"gcd": torch.gcd, "lcm": torch.lcm}.items():
        for t in (torch.int64, torch.int32, torch.int8):
            case(op, str(t)[6:], fn, [(integers * 6).to(t), (others * 4).to(t)], gradients=False)
        case(op, "uint8", fn, [(integers.abs() * 6).to(torch.uint8), (others.abs() * 4).to(torch.uint8)], gradients=False)
        case(op, "zeros", fn, [torch.tensor([0, 0, 5]), torch.tensor([0, -4, 0])], gradients=False)
    shifts = torch.tensor([0, 1, 2, 3, 7, 8, 10, 64])
    for op, fn in {"bitwise_left_shift": torch.bitwise_left_shift, "bitwise_right_shift": torch.bitwise_right_shift}.items():
        for t in (torch.int64, torch.int32, torch.int8, torch.uint8):
            case(op, str(t)[6:], fn, [integers.to(t), shifts.to(t)], gradients=False)
        case(op, "negative", fn, [integers, -1 - shifts], gradients=False)


def activations():
    number = lambda *v: torch.tensor(v[0] if len(v) == 1 else v, dtype=torch.float64)
    alpha = number(0.75)
    wide = make("activation", (4, 5), -4, 4)
    plain = {
        "relu6": F.relu6, "selu": F.selu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "mish": F.mish, "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish, "softsign": F.softsign, "tanhshrink": F.tanhshrink, "log_sigmoid": F.logsigmoid,
    }
    for op, fn in plain.items():
        # PyTorch's hardsigmoid has a float32 1/6 in its gradient even in float64.
        by_relu6 = (lambda x: F.relu6(x + 3) / 6) if op == "hardsigmoid" else fn
        case(op, "ordinary", by_relu6, [wide * (2 if op in ("relu6", "hardswish", "hardsigmoid") else 1)])
        # At 0 the first gradient of these units is PyTorch's from the left, the second from the right.
        case(op, "kinks", by_relu6, [KINKS], second=op != "selu")
        case(op, "special", fn, [SPECIAL], gradients=False)
        case(op, "empty", fn, [torch.empty(0, 3, dtype=torch.float64)])
    # Rows of further inputs, which PyTorch takes as numbers.
    numbered = {
        "leaky_relu": lambda x, a: F.leaky_relu(x, a.item()), "elu": lambda x, a: F.elu(x, a.item()), "celu": lambda x, a: F.celu(x, a.item()),
        "softshrink": lambda x, a: F.softshrink(x, a.item()), "hardshrink": lambda x, a: F.hardshrink(x, a.item()),
    }
    for op, fn in numbered.items():
        case(op, "ordinary", fn, [wide, alpha], wrt=[0])
        case(op, "kinks", fn, [KINKS, number(0.5)], wrt=[0], second=op not in ("elu", "celu"))
        case(op, "special", fn, [SPECIAL, number(0.5)], gradients=False)
    case("hardtanh", "ordinary", lambda x, a, b: F.hardtanh(x, a.item(), b.item()), [wide, number(-1.5), number(0.5)], wrt=[0])
    case("hardtanh", "kinks", lambda x, a, b: F.hardtanh(x, a.item(), b.item()), [KINKS, number(-1.0), number(3.0)], wrt=[0])
    case("hardtanh", "special", lambda x, a, b: F.hardtanh(x, a.item(), b.item()), [SPECIAL, number(-1.0), number(1.0)], gradients=False)
    case("threshold", "ordinary", lambda x, a, b: F.threshold(x, a.item(), b.item()), [wide, number(0.25), number(-2.0)], wrt=[0])
    case("threshold", "kinks and special", lambda x, a, b: F.threshold(x, a.item(), b.item()), [SPECIAL, number(0.5), number(7.0)], wrt=[0])
    for label, shape, n in [("a weight a channel", (2, 3, 4), 3), ("one weight", (2, 3), 1), ("rank 1", (5,), 1), ("columns", (4, 3), 3)]:
        case("prelu", label, F.prelu, [make("prelu", shape), make("prelu", (n,), 0.1, 0.5)])
    case("prelu", "kinks and special", F.prelu, [SPECIAL[[0, 1, 2, 5, 6, 7]], t64(0.25).reshape(1)], second=False)  # as elu's
    for beta, threshold in [(1, 20), (2, 3), (0.5, 1)]:
        case("softplus with options", f"beta {beta}, threshold {threshold}", lambda x: F.softplus(x, beta, threshold), [wide], {"beta": beta, "threshold": threshold})
        case("softplus with options", f"beta {beta}, threshold {threshold}, special", lambda x: F.softplus(x, beta, threshold), [SPECIAL],
             {"beta": beta, "threshold": threshold}, gradients=False)
    gated = {
        "glu": lambda x, axis: F.glu(x, axis),
        "swiglu": lambda x, axis: F.silu(x.chunk(2, axis)[0]) * x.chunk(2, axis)[1],
        "geglu": lambda x, axis: F.gelu(x.chunk(2, axis)[0]) * x.chunk(2, axis)[1],
    }
    for op, fn in gated.items():
        case(op, "rows", lambda x: fn(x, -1), [make(op, (3, 8))], {"axis": -1})
        case(op, "middle axis", lambda x: fn(x, 1), [make(op, (2, 6, 3))], {"axis": 1})
    case("geglu", "tanh", lambda x: F.gelu(x.chunk(2, -1)[0], approximate="tanh") * x.chunk(2, -1)[1], [make("geglu", (3, 8))],
         {"axis": -1, "approximate": "tanh"})


def composed():
    a, b, c = make("addc", (2, 3, 4)), make("addc", (3, 4)), make("addc", (4,), 0.5, 2)
    for value in (1.0, -0.5):
        case("addcmul", f"value {value}", lambda x, y, z: torch.addcmul(x, y, z, value=value), [a, b, c], {"value": value})
        case("addcdiv", f"value {value}", lambda x, y, z: torch.addcdiv(x, y, z, value=value), [a, b, c], {"value": value})
    case("addcmul", "special", torch.addcmul, [SPECIAL, t64(INF), t64(2.0)], gradients=False)
    case("addcdiv", "special", torch.addcdiv, [t64(1.0), t64(INF), SPECIAL], gradients=False)
    case("nan_to_num", "numbers", lambda x: torch.nan_to_num(x, 2.0, 7.0, -3.0), [SPECIAL], {"nan": 2.0, "posinf": 7.0, "neginf": -3.0})
    case("nan_to_num", "ordinary", torch.nan_to_num, [a])
    case("nan_to_num", "integers", torch.nan_to_num, [torch.tensor([1, -2])], gradients=False)
    left, right = SPECIAL[:8].repeat_interleave(8), SPECIAL[:8].repeat(8)
    for o in ({}, {"equal_nan": True}, {"rtol": 0.25, "atol": 0.5}, {"rtol": 0.0, "atol": 0.0}):
        case("isclose", f"special pairs {o}", lambda a, b: torch.isclose(a, b, **o), [left, right], o, gradients=False)
    case("isclose", "int64", lambda a, b: torch.isclose(a, b, atol=1.0), [torch.tensor([1, 5, -3]), torch.tensor([2, 7, -3])], {"atol": 1.0}, gradients=False)


def cases():
    special_functions()
    binary_functions()
    activations()
    composed()

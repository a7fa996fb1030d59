"""Scans, and the reductions that skip NaN, count, give two results or take an order."""
import torch

from golden_case import INF, NAN, SPECIAL, case, make, t64


def pair(r):
    return r[0], r[1]


def cases():
    x = make("scans", (3, 4, 5))
    scans = {"cumsum": torch.cumsum, "cumprod": torch.cumprod, "logcumsumexp": torch.logcumsumexp,
             "cummax": lambda x, a: pair(torch.cummax(x, a)), "cummin": lambda x, a: pair(torch.cummin(x, a))}
    for op, fn in scans.items():
        # PyTorch's double backward takes the logarithm of what comes in, which is NaN for 0.
        twice = (lambda x, a: torch.log(torch.cumsum(torch.exp(x), a))) if op == "logcumsumexp" else fn
        for axis in (0, 1, -1):
            case(op, f"axis {axis}", lambda x: fn(x, axis), [x], {"axis": axis}, second=lambda x: twice(x, axis))
        case(op, "0-d", lambda x: fn(x, 0), [make(op, ())], {"axis": 0})
        case(op, "empty", lambda x: fn(x, 1), [torch.empty(2, 0, dtype=torch.float64)], {"axis": 1})
        case(op, "long", lambda x: fn(x, 0), [make(op, (300,), 0.9, 1.1)], {"axis": 0}, second=lambda x: twice(x, 0))
        case(op, "special", lambda x: fn(x, 0), [SPECIAL], {"axis": 0}, gradients=False)
        for v in (INF, -INF, NAN):
            case(op, f"with {v}", lambda x: fn(x, 0), [t64(1, v, 2, 3)], {"axis": 0}, gradients=op in ("cumsum", "cummax", "cummin"))
    for op in ("cumsum", "cumprod"):
        case(op, "int32", lambda x: scans[op](x, 1), [torch.arange(1, 7, dtype=torch.int32).reshape(2, 3)], {"axis": 1})
        case(op, "bool", lambda x: scans[op](x, 0), [torch.tensor([True, True, False, True])], {"axis": 0})
        case(op, "int8", lambda x: scans[op](x, 0), [torch.tensor([100, 100, -3], dtype=torch.int8)], {"axis": 0})
    for label, v in {"one zero": (2, 0, 3, 4), "two zeros": (2, 0, 3, 0, 5), "first": (0, 1, 2), "all": (0, 0, 0)}.items():
        case("cumprod", label, lambda x: torch.cumprod(x, 0), [t64(*v)], {"axis": 0})
    case("logcumsumexp", "far apart", lambda x: torch.logcumsumexp(x, 0), [t64(-700, 600, -600, 700, 0)], {"axis": 0})
    for op in ("cummax", "cummin"):
        case(op, "ties", lambda x: scans[op](x, 0), [t64(1, 2, 2, 1, 1, 2, 3)], {"axis": 0})
        case(op, "NaN twice", lambda x: scans[op](x, 0), [t64(1, NAN, 2, NAN, 3)], {"axis": 0})
        case(op, "int64", lambda x: scans[op](x, 1), [torch.tensor([[3, 1, 3], [2, 5, 4]])], {"axis": 1})
        case(op, "bool", lambda x: scans[op](x, 0), [torch.tensor([False, True, False])], {"axis": 0})

    x = make("scans", (2, 3, 4))
    axes = [[], [0], [-1], [0, 2]]
    full = lambda a: tuple(a) if a else (0, 1, 2)
    for a in axes:
        for keepdim in (False, True):
            o = {"axes": a, "keepdim": keepdim}
            for p in (0, 0.5, 1, 1.5, 2, 3, -1, INF, -INF):
                case("norm", f"order {p} {o}", lambda x: torch.linalg.vector_norm(x, p, full(a), keepdim), [x], o | {"p": str(p)})
            case("nansum", str(o), lambda x: torch.nansum(x, full(a), keepdim), [x], o)
            case("nanmean", str(o), lambda x: torch.nanmean(x, full(a), keepdim), [x], o)
            for op, fn in {"var_mean": torch.var_mean, "std_mean": torch.std_mean}.items():
                for correction in (0, 1):
                    case(op, f"{o} correction {correction}", lambda x: fn(x, full(a), correction=correction, keepdim=keepdim), [x],
                         o | {"correction": correction})
        case("count_nonzero", f"axes {a}", lambda x: torch.count_nonzero(x.round(), full(a)), [x], {"axes": a, "round": True}, gradients=False)
    for p in (0, 0.5, 1, 1.5, 3, INF):
        case("norm", f"order {p} of zeros", lambda x: torch.linalg.vector_norm(x, p), [t64(0, 0, 0)], {"p": str(p)}, second=False)  # NaN in PyTorch
        case("norm", f"order {p} with a zero", lambda x: torch.linalg.vector_norm(x, p), [t64(3, 0, -2)], {"p": str(p)}, second=False)
        case("norm", f"order {p}, special", lambda x: torch.linalg.vector_norm(x, p), [t64(1, -INF, 2)], {"p": str(p)}, gradients=False)
        case("norm", f"order {p}, NaN", lambda x: torch.linalg.vector_norm(x, p), [t64(1, NAN, 2)], {"p": str(p)}, gradients=False)
    case("norm", "ties of order inf", lambda x: torch.linalg.vector_norm(x, INF, 1), [t64(3, -3, 1, 2, 2, -2).reshape(2, 3)], {"p": "inf", "axes": [1]})
    holes = t64(1, NAN, 2, NAN, NAN, NAN).reshape(2, 3)
    for op, fn in {"nansum": torch.nansum, "nanmean": torch.nanmean}.items():
        case(op, "NaN", lambda x: fn(x, 1), [holes], {"axes": [1]}, gradients=op == "nansum")
        case(op, "infinite", lambda x: fn(x, 0), [t64(1, INF, NAN)], {"axes": [0]})
        case(op, "empty", lambda x: fn(x, 0), [torch.empty(0, 3, dtype=torch.float64)], {"axes": [0]})
    case("nansum", "int32", lambda x: torch.nansum(x), [torch.tensor([1, 2, 3], dtype=torch.int32)], {})
    case("count_nonzero", "special", lambda x: torch.count_nonzero(x), [SPECIAL], {}, gradients=False)
    case("count_nonzero", "bool", lambda x: torch.count_nonzero(x, 1), [torch.tensor([[True, False], [True, True]])], {"axes": [1]})
    case("count_nonzero", "empty", lambda x: torch.count_nonzero(x, 0), [torch.empty(0, 3)], {"axes": [0]}, gradients=False)

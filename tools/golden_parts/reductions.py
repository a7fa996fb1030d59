"""Reductions over all kinds of axes."""
import torch

from golden_case import INF, NAN, SPECIAL, case, make, t64


def cases():
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
    case("norm", "of zeros", lambda x: torch.linalg.vector_norm(x, 2), [t64(0, 0, 0)], {}, second=False)  # NaN in PyTorch
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

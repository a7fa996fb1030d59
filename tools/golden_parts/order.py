"""Extremes with their places, and whatever sorts."""
import torch

from golden_case import INF, NAN, SPECIAL, case, make, t64


def pair(r):
    return r[0], r[1]


def cases():
    x = make("order", (3, 4, 5))
    ties = t64(1, 3, 3, 2, 2, 2, 0, 0).reshape(2, 4)
    unlike = t64(0.5, -0.5, INF, -INF, 1, -1, 2.5, 1.5, -2.5, 3)  # no two equal
    for op, fn in {"max": torch.max, "min": torch.min}.items():
        for axis in (0, 1, -1):
            for keepdim in (False, True):
                case(op, f"axis {axis} keepdim {keepdim}", lambda x: pair(fn(x, axis, keepdim)), [x], {"axis": axis, "keepdim": keepdim})
        case(op, "ties", lambda x: pair(fn(x, 1)), [ties], {"axis": 1})
        case(op, "NaN", lambda x: pair(fn(x, 0)), [t64(1, NAN, 3, NAN)], {"axis": 0})
        case(op, "infinite", lambda x: pair(fn(x, 0)), [unlike], {"axis": 0})
        case(op, "0-d", lambda x: pair(fn(x, 0)), [make(op, ())], {"axis": 0})
        case(op, "empty rest", lambda x: pair(fn(x, 1)), [torch.empty(0, 3, dtype=torch.float64)], {"axis": 1})
        case(op, "of all", fn, [ties], {})
        for t in (torch.int8, torch.uint8, torch.int32, torch.int64):
            case(op, str(t), lambda x: pair(fn(x, 1)), [torch.tensor([[3, 1, 7], [100, 5, 4]]).to(t)], {"axis": 1})
        case(op, "bool", lambda x: pair(fn(x, 1)), [torch.tensor([[False, True], [True, True]])], {"axis": 1})
    for op, fn in {"argmax": torch.argmax, "argmin": torch.argmin}.items():
        for t in (torch.int8, torch.uint8, torch.int32):
            case(op, str(t), lambda x: fn(x, 1), [torch.tensor([[3, 1, 7], [100, 5, 4]]).to(t)], {"axes": [1]})
    # torch.aminmax itself has no derivative.
    both = lambda x, *a, **k: (torch.amin(x, *a, **k), torch.amax(x, *a, **k))
    for axis in (0, 1, -1):
        case("aminmax", f"axis {axis}", lambda x: both(x, axis), [x], {"axes": [axis]})
    case("aminmax", "of all", lambda x: both(x), [x], {})
    case("aminmax", "ties", lambda x: both(x, 1, keepdim=True), [ties], {"axes": [1], "keepdim": True})
    case("aminmax", "NaN", lambda x: pair(torch.aminmax(x)), [t64(1, NAN, 3)], {}, gradients=False)

    for descending in (False, True):
        o = lambda axis: {"axis": axis, "descending": descending}
        fn = lambda x, axis: pair(torch.sort(x, dim=axis, descending=descending, stable=True))
        for op, f in {"sort": fn, "argsort": lambda x, a: fn(x, a)[1]}.items():
            d = f"descending {descending}"
            for axis in (0, 1, -1):
                case(op, f"axis {axis} {d}", lambda x: f(x, axis), [x], o(axis))
            case(op, f"ties {d}", lambda x: f(x, 1), [ties], o(1))
            case(op, f"special {d}", lambda x: f(x, 0), [torch.cat([SPECIAL, SPECIAL])], o(0))
            case(op, f"long {d}", lambda x: f(x, -1), [make(op, (300,))], o(-1))
            case(op, f"long, ties {d}", lambda x: f(x, -1), [make(op, (270,), -5, 5).round()], o(-1))
            case(op, f"0-d {d}", lambda x: f(x, 0), [make(op, ())], o(0))
            case(op, f"empty {d}", lambda x: f(x, 1), [torch.empty(2, 0, dtype=torch.float64)], o(1))
            for t in (torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool):
                numbers = (make(op, (270,), -100, 100) if t != torch.bool else make(op, (30,), 0, 2)).long().to(t)
                case(op, f"{t} {d}", lambda x: f(x, 0), [numbers], o(0))
    for largest in (True, False):
        for k in (0, 1, 3, 5):
            case("topk", f"k {k} largest {largest}", lambda x: pair(torch.topk(x, k, -1, largest)), [x], {"k": k, "axis": -1, "largest": largest})
        case("topk", f"axis 1 largest {largest}", lambda x: pair(torch.topk(x, 2, 1, largest)), [x], {"k": 2, "axis": 1, "largest": largest})
        case("topk", f"NaN largest {largest}", lambda x: pair(torch.topk(x, 3, 0, largest)), [t64(1, NAN, 3, -INF, 2, INF)],
             {"k": 3, "axis": 0, "largest": largest})
        case("topk", f"long largest {largest}", lambda x: pair(torch.topk(x, 7, 0, largest)), [make("topk", (1200,))],
             {"k": 7, "axis": 0, "largest": largest}, gradients=False)
        case("topk", f"int32 largest {largest}", lambda x: pair(torch.topk(x, 2, 0, largest)), [torch.tensor([3, -1, 7, 4], dtype=torch.int32)],
             {"k": 2, "axis": 0, "largest": largest})
        case("topk", f"0-d largest {largest}", lambda x: pair(torch.topk(x, 1, 0, largest)), [make("topk", ())], {"k": 1, "axis": 0, "largest": largest})
    for k in (1, 3, 5):
        for keepdim in (False, True):
            case("kthvalue", f"k {k} keepdim {keepdim}", lambda x: pair(torch.kthvalue(x, k, -1, keepdim)), [x], {"k": k, "axis": -1, "keepdim": keepdim})
    case("kthvalue", "axis 0", lambda x: pair(torch.kthvalue(x, 2, 0)), [x], {"k": 2, "axis": 0})
    case("kthvalue", "NaN", lambda x: pair(torch.kthvalue(x, 2, 0)), [t64(5, NAN, 3)], {"k": 2, "axis": 0})
    for axis in (0, 1, -1):
        case("median", f"axis {axis}", lambda x: pair(torch.median(x, axis)), [x], {"axis": axis})
    case("median", "keepdim", lambda x: pair(torch.median(x, 1, True)), [x], {"axis": 1, "keepdim": True})
    case("median", "NaN", lambda x: pair(torch.median(x, 0)), [t64(5, 1, NAN, 3, NAN)], {"axis": 0})
    case("median", "of all", torch.median, [x], {})
    case("median", "of all, ties", torch.median, [t64(2, 1, 2, 3, 2)], {})
    case("median", "of all, NaN", torch.median, [t64(2, NAN, 2)], {})
    case("median", "of nothing", torch.median, [torch.empty(0, dtype=torch.float64)], {}, gradients=False)
    case("median", "of all, int64", torch.median, [torch.tensor([[4, 1], [3, 2]])], {})

    row = t64(-1.5, -1, -1, 0, 0.5, 2, 2, 2, 3)
    rows = torch.stack([row, row + 0.25, row * 2])
    wanted = torch.cat([SPECIAL, t64(2, -9, 9)])
    for right in (False, True):
        case("searchsorted", f"one row, right {right}", lambda s, v: torch.searchsorted(s, v, right=right), [row, wanted.reshape(2, 8)],
             {"right": right}, gradients=False)
        case("searchsorted", f"rows, right {right}", lambda s, v: torch.searchsorted(s, v, right=right), [rows, make("search", (3, 6))],
             {"right": right}, gradients=False)
        case("searchsorted", f"int64, right {right}", lambda s, v: torch.searchsorted(s, v, right=right),
             [torch.tensor([1, 3, 3, 7]), torch.tensor([0, 3, 7, 9])], {"right": right})
        case("bucketize", f"right {right}", lambda x, b: torch.bucketize(x, b, right=right), [wanted, row], {"right": right}, gradients=False)

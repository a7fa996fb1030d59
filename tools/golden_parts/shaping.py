"""Parts, repetitions, rotations, padding, diagonals and triangles; tensors like others; truncated normals."""
import math

import torch
import torch.nn.functional as F

from golden_case import INF, case, make, quantile, words32, words64


def truncated(n, seed, mean, std, a, b):
    """The quantiles of evenly spread places between those of a and b, of 2^64."""
    def below(z):
        tail = min(2**63, int(0.5 * math.erfc(abs(z) / math.sqrt(2)) * 2.0**64))
        return tail if z < 0 else 2**64 - max(tail, 1)
    low, high = below((a - mean) / std), below((b - mean) / std)
    places = [low + (w * (high - low) >> 64) for w in words64(n, seed)]
    bits = [p | 2**63 if p < 2**63 else 2**64 - 1 - p for p in places]
    return torch.tensor([min(max(mean + std * quantile(w, 64), a), b) for w in bits], dtype=torch.float64)


def cases():
    x, cube = make("shaping", (2, 7)), make("shaping", (2, 3, 4))
    dot, none = make("shaping", ()), torch.empty(2, 0, 3, dtype=torch.float64)
    case("split", "size 3", lambda x: x.split(3, 1), [x], {"size": 3, "axis": 1})
    case("split", "sizes", lambda x: x.split([2, 0, 5], -1), [x], {"sizes": [2, 0, 5], "axis": -1})
    case("split", "nothing by 0", lambda x: x.split(0, 1), [none], {"size": 0, "axis": 1})
    case("split", "nothing by 2", lambda x: x.split(2, 1), [none], {"size": 2, "axis": 1})
    case("chunk", "3 of 7", lambda x: x.chunk(3, 1), [x], {"count": 3, "axis": 1})
    case("chunk", "5 of 7", lambda x: x.chunk(5, 1), [x], {"count": 5, "axis": 1})
    case("chunk", "3 of nothing", lambda x: x.chunk(3, 1), [none], {"count": 3, "axis": 1})
    case("cat", "an empty vector", lambda a, b: torch.cat([a, b], 1), [torch.empty(0, dtype=torch.float64), x], {"axis": 1}, wrt=[1])
    case("movedim", "one", lambda x: x.movedim(0, -1), [cube], {"from": [0], "to": [-1]})
    case("movedim", "two", lambda x: x.movedim((-1, 0), (0, 1)), [cube], {"from": [-1, 0], "to": [0, 1]})
    case("unflatten", "with -1", lambda x: x.unflatten(2, (2, -1)), [cube], {"axis": 2, "sizes": [2, -1]})
    case("unflatten", "negative axis", lambda x: x.unflatten(-3, (1, 2)), [cube], {"axis": -3, "sizes": [1, 2]})
    ones = make("shaping", (1, 3, 1, 2, 1))
    case("squeeze", "several", lambda x: x.squeeze((0, 1, -1)), [ones], {"axes": [0, 1, -1]})
    case("squeeze", "all", lambda x: x.squeeze(), [ones], {"all": True})
    for op, fn in (("repeat", lambda x, c: x.repeat(*c)), ("tile", lambda x, c: x.tile(c))):
        for label, t, counts in (("matrix", x, [2, 3]), ("new axes", x, [2, 1, 1, 2]), ("0-d", dot, [4]), ("no copies", x, [0, 2]),
                                 ("empty", none, [1, 2, 2]), ("five axes", make("repeat", (2, 1, 2, 1, 2)), [2, 2, 1, 2, 3])):
            case(op, label, lambda x: fn(x, counts), [t], {"counts": counts})
    case("tile", "fewer counts", lambda x: x.tile((3,)), [x], {"counts": [3]})
    case("tile", "no counts", lambda x: x.tile(()), [x], {"counts": []})
    for label, t, shifts, axes in (("one axis", x, [2], [1]), ("backwards", x, [-9], [-1]), ("two axes", cube, [1, -1], [0, 2]),
                                   ("an axis twice", cube, [1, 2], [2, 2]), ("flattened", cube, [5], []), ("0-d", dot, [1], []),
                                   ("empty", none, [1, 1], [0, 1])):
        case("roll", label, lambda x: torch.roll(x, shifts, axes), [t], {"shifts": shifts, "axes": axes})
    image = make("pad", (1, 2, 3, 4))
    for mode in ("reflect", "replicate", "circular"):
        for label, t, sizes in (("one axis", image[0], [2, 1]), ("two axes", image, [1, 3, 2, 0]), ("negative", image, [-1, 2, 1, -1]),
                                ("both negative", image, [-1, -1, 0, 2])):
            case("pad", f"{mode}, {label}", lambda x: F.pad(x, sizes, mode), [t], {"sizes": sizes, "mode": mode})
    case("pad", "replicate, far", lambda x: F.pad(x, (7, 5), "replicate"), [image[0]], {"sizes": [7, 5], "mode": "replicate"})
    case("pad", "circular, whole", lambda x: F.pad(x, (4, 4), "circular"), [image[0]], {"sizes": [4, 4], "mode": "circular"})
    for label, t, sizes, value in (("one axis", x, [1, 2], 0), ("three axes", cube, [0, 1, 2, 0, 1, 1], 1.5), ("negative", cube, [-1, 2, 1, -2], -2),
                                   ("all taken", x, [-3, -4], 1), ("around nothing", none, [1, 0, 2, 1], INF), ("no sizes", x, [], 3)):
        case("pad", f"constant, {label}", lambda x: F.pad(x, sizes, value=value), [t],
             {"sizes": sizes, "mode": "constant", "value": "inf" if value == INF else value})
    for label, t, o in (("main", cube, [0, 0, 1]), ("above, last axes", cube, [2, -2, -1]), ("below, swapped", cube, [-1, 2, 0]),
                        ("beyond", x, [9, 0, 1]), ("empty", none, [0, 0, 1])):
        case("diagonal", label, lambda x: torch.diagonal(x, *o), [t], {"diagonal": o})
    for label, shape, o in (("above", (3, 5), [1, 0, 1]), ("below, axes 0 and 2", (4, 2, 4), [-1, 0, 2])):
        piece = torch.diagonal(torch.zeros(shape), *o)
        case("diagonal_scatter", label, lambda p: torch.diagonal_scatter(torch.zeros(shape, dtype=p.dtype), p, *o),
             [make("diagonal", tuple(piece.shape))], {"shape": list(shape), "diagonal": o})
    for op, fn in (("tril", torch.tril), ("triu", torch.triu)):
        for label, t, d in (("main", cube, 0), ("above", cube, 1), ("below", x, -1), ("beyond", x, 9), ("before", x, -9), ("empty", none, 0)):
            case(op, label, lambda x: fn(x, d), [t], {"diagonal": d})
        case(op, "of infinities", lambda x: fn(x), [torch.full((2, 2), INF, dtype=torch.float64)], {"diagonal": 0})
    case("zeros_like", "matrix", torch.zeros_like, [x])
    case("zeros_like", "integers", torch.zeros_like, [torch.tensor([3, 4])])
    case("ones_like", "0-d", torch.ones_like, [dot])
    case("full_like", "empty", lambda x: torch.full_like(x, 2.5), [none], {"value": 2.5})
    case("full_like", "bool", lambda x: torch.full_like(x, 1), [torch.tensor([True, False])], {"value": 1})
    case("one_hot", "classes counted", lambda i: F.one_hot(i), [torch.tensor([[0, 3], [1, 1]])], {"classes": -1})
    seed, n = 2**33 + 5, 10
    at = torch.zeros(n, dtype=torch.float64)
    o = {"seed": seed}
    of = lambda values: lambda x: torch.tensor(values, dtype=torch.float64)
    case("rand_like", "seeded", of([(w >> 11) / 2.0**53 for w in words64(n, seed)]), [at], o,
         fn32=of([(w >> 8) / 2.0**24 for w in words32(n, seed)]))
    case("randn_like", "seeded", of([quantile(w, 64) for w in words64(n, seed)]), [at], o, fn32=of([quantile(w, 32) for w in words32(n, seed)]))
    case("randint_like", "seeded", lambda x: torch.tensor([-5 + (w * 17 >> 64) for w in words64(n, seed)]),
         [torch.zeros(n, dtype=torch.int64)], o | {"low": -5, "high": 12})
    for label, t in (("usual", (0, 1, -2, 2)), ("off the middle", (1, 0.5, 0, 4)), ("a far tail", (0, 1, 5, 7)), ("the lower tail", (0, 2, -INF, -12)),
                     ("whole", (3, 2, -INF, INF)), ("beyond float64", (0, 1, 40, 41))):
        values = truncated(n, seed, *t)
        case("truncated_normal", label, lambda: values, [],
             o | {"shape": [n], "normal": ["inf" if v == INF else "-inf" if v == -INF else v for v in t]})

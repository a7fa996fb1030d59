"""x[...] and x[...] = value, masks, and reading and writing by index along an axis."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, case, make, t64

ALL = slice(None)


def entry(i):
    if isinstance(i, slice):
        return {"slice": [i.start, i.stop, i.step if i.step is not None else 1]}
    return "..." if i is Ellipsis else i


def index_cases(label, x, at, step=None):
    """`at`: entries; tensors become further inputs. `step`: the same with slices that PyTorch lacks, and the axes to flip."""
    tensors = [i for i in at if isinstance(i, torch.Tensor)]
    names = iter(range(1, 9))
    o = {"at": [{"tensor": next(names)} if isinstance(i, torch.Tensor) else entry(i) for i in (step[0] if step else at)]}
    flips = step[1] if step else []
    read = lambda x: x[at].flip(flips)
    result = read(x)
    case("index", label, lambda x, *_: read(x), [x] + tensors, o, wrt=[0])

    def put(x, value):
        y = x.clone()
        y[at] = value.broadcast_to(result.shape).flip(flips)
        return y

    def add(x, value):
        n = torch.arange(x.numel()).reshape(x.shape)
        value = value.broadcast_to(result.shape).flip(flips)
        return x.flatten().index_add(0, n[at].flatten(), value.flatten()).reshape(x.shape)

    places = torch.arange(x.numel()).reshape(x.shape)[at].flatten()
    repeats = places.unique().numel() < places.numel()
    for kind, shape in (("", tuple(result.shape)), (", a number", ()), (", broadcast", tuple(result.shape[-1:]))):
        value = make("set", shape)
        put_o = o | {"value": len(tensors) + 1}
        if not repeats:
            case("set", label + kind, lambda x, *r: put(x, r[-1]), [x] + tensors + [value], put_o, wrt=[0, len(tensors) + 1])
        case("set", label + kind + ", added", lambda x, *r: add(x, r[-1]), [x] + tensors + [value], put_o | {"accumulate": True},
             wrt=[0, len(tensors) + 1])


def entries():
    m, c = make("index", (4, 5)), make("index", (3, 4, 5))
    i = torch.tensor
    for label, x, at in (
        ("an integer", m, (-2,)), ("all integers", m, (1, -1)), ("no entry", m, (Ellipsis,)), ("slices", m, (slice(1, 3), slice(-4, -1, 2))),
        ("beyond the ends", m, (slice(-9, 9), slice(3, 1))), ("ellipsis", c, (0, Ellipsis, slice(1, 4))), ("empty ellipsis", m, (0, Ellipsis, 2)),
        ("new axes", m, (None, slice(1, 3), None, 2)), ("new axis at the end", m, (Ellipsis, None)),
        ("rows", m, (i([2, 0, 3]),)), ("rows, repeated", m, (i([2, 0, 2, -1]),)), ("a matrix of rows", m, (i([[2, 0], [1, -1]]),)),
        ("columns", m, (ALL, i([4, -4]))), ("pairs", m, (i([0, 3]), i([1, 1]))), ("outer", m, (i([[0], [3]]), i([1, 4, -3]))),
        ("int32", m, (i([2, 0], dtype=torch.int32),)), ("no rows", m, (torch.empty(0, dtype=torch.int64),)),
        ("adjacent, behind", c, (ALL, i([0, 2]), i([[1], [4]]))), ("around a slice", c, (i([0, 2]), slice(1, 3), i([1, 4]))),
        ("around a new axis", m, (i([0, 2]), None, i([1, 4]))), ("beside a new axis", m, (None, i([0, 2]), i([1, 4]))),
        ("an integer between", c, (i([0, 2]), 1, i([1, 4]))), ("an integer in front", c, (1, ALL, i([1, 4]))),
        ("0-d", c, (ALL, i(2))), ("0-d aside", c, (i(1), ALL, i([1, 4]))), ("0-d between", c, (i([0, 2]), i(3), ALL)), ("two 0-d", c, (i(1), ALL, i(-1))),
        ("slice, then rows", c, (slice(0, 3, 2), i([3, 1, 0]))),
        ("mask", m, (m > 0,)), ("mask of rows", c, (i([True, False, True]),)), ("mask of two axes", c, (ALL, make("mask", (4, 5)) > 0)),
        ("mask of the first two", c, (make("mask", (3, 4)) > 0,)), ("mask and rows", c, (i([True, False, True]), i([1, 3]))),
        ("mask and slice", m, (slice(1, 4), i([True, False, True, True, False]))), ("mask, all false", m, (m > 9,)),
        ("mask, an integer between", c, (i([True, True, False]), 1, i([0, 4]))), ("true", m, (True,)), ("false", m, (False,)),
        ("0-d mask", m, (i(True),)), ("of 0-d", make("index", ()), (Ellipsis,)), ("of 0-d, true", make("index", ()), (True,)),
        ("of nothing", torch.empty(0, 3, dtype=torch.float64), (ALL, i([1, 1]))),
    ):
        index_cases(label, x, at)
    back = slice(None, None, -1)
    index_cases("backwards", m, (ALL, ALL), ((back, back), [0, 1]))
    index_cases("backwards by 2", m, (slice(0, 3, 2), slice(1, 4, 1)), ((slice(-2, None, -2), slice(3, 0, -1)), [0, 1]))
    index_cases("backwards beside rows", m, (ALL, i([1, 3])), ((back, i([1, 3])), [0]))


def masks():
    x, dot = make("mask", (3, 4)), make("mask", ())
    row = torch.tensor([True, False, True, False])
    case("nonzero", "matrix", torch.nonzero, [x * (x > 0)])
    case("nonzero", "special", torch.nonzero, [t64(0, -0.0, NAN, INF, 1)])
    case("nonzero", "integers", torch.nonzero, [torch.tensor([[0, 3], [-1, 0]])])
    case("nonzero", "0-d", torch.nonzero, [dot])
    case("nonzero", "none", torch.nonzero, [torch.zeros(2, 3, dtype=torch.float64)])
    case("nonzero", "empty", torch.nonzero, [torch.empty(2, 0, dtype=torch.float64)])
    for label, a, m in (("matrix", x, x > 0), ("mask broadcasts", x, row), ("both broadcast", x[:1], row.reshape(4, 1)), ("0-d", dot, torch.tensor(True)),
                        ("none", x, x > 9), ("empty", x[:0], row)):
        case("masked_select", label, torch.masked_select, [a, m])
        case("masked_fill", label, lambda x, m: x.masked_fill(m, -2.5), [a, m], {"number": -2.5})
        case("masked_fill", label + ", a tensor", lambda x, m, v: x.masked_fill(m, v), [a, m, make("fill", ())])
    case("masked_fill", "infinity and NaN", lambda x, m: x.masked_fill(m, -INF), [t64(NAN, 1, INF), torch.tensor([True, True, False])], {"number": "-inf"})
    case("masked_fill", "integers", lambda x, m: x.masked_fill(m, 7), [torch.tensor([1, 2]), torch.tensor([True, False])], {"number": 7})


def cut(src, index):
    """What of src is read: PyTorch has no gradient of the rest."""
    return src[tuple(slice(n) for n in index.shape)]


def along():
    x, src = make("along", (3, 4)), make("along", (5, 4))
    k = torch.tensor([[2, 0, 1, 2], [0, 0, 2, 1], [2, 1, 1, 0]])
    each = torch.tensor([[2, 0, 1, 2], [0, 1, 2, 1]])  # no place twice
    dot, nowhere = make("along", ()), torch.empty(0, 4, dtype=torch.int64)
    case("gather", "0-d", lambda x, i: torch.gather(x, 0, i), [dot, torch.tensor(0)], {"axis": 0}, wrt=[0])
    case("take_along_dim", "x broadcasts", lambda x, i: torch.take_along_dim(x, i, 0), [x[:, :1], k], {"axis": 0}, wrt=[0])
    case("take_along_dim", "index broadcasts", lambda x, i: torch.take_along_dim(x, i, 1), [x, torch.tensor([[3, 3, 0]])], {"axis": 1}, wrt=[0])
    case("take_along_dim", "flattened", lambda x, i: torch.take_along_dim(x, i), [x, torch.tensor([[11, 0], [5, 5]])], {}, wrt=[0])
    case("take_along_dim", "empty", lambda x, i: torch.take_along_dim(x, i, 0), [x, nowhere], {"axis": 0}, wrt=[0])
    case("index_select", "0-d index", lambda x, i: torch.index_select(x, 1, i), [x, torch.tensor(2)], {"axis": 1}, wrt=[0])
    case("index_select", "0-d", lambda x, i: torch.index_select(x, 0, i), [dot, torch.tensor([0])], {"axis": 0}, wrt=[0])
    case("embedding", "padding", lambda w, i: F.embedding(i, w, 1), [x, torch.tensor([[1, 2], [0, 1]])], {"padding": 1}, wrt=[0])
    case("embedding", "negative padding", lambda w, i: F.embedding(i, w, -1), [x, torch.tensor([2, 2, 0])], {"padding": -1}, wrt=[0])
    for label, a, i, s in (("rows", x, each, src), ("a small index", x, each[:, :3], src), ("no index", x, nowhere, src), ("0-d", dot, torch.tensor(0), make("s", ()))):
        case("scatter", label, lambda x, i, s: torch.scatter(x, 0, i, cut(s, i)), [a, i, s], {"axis": 0}, wrt=[0, 2])
        case("scatter", label + ", a number", lambda x, i: torch.scatter(x, 0, i, 1.5), [a, i], {"axis": 0, "number": 1.5}, wrt=[0])
    case("scatter", "columns", lambda x, i, s: torch.scatter(x, -1, i, cut(s, i)), [x, torch.tensor([[3, 0], [1, 2], [0, 3]]), src], {"axis": -1}, wrt=[0, 2])
    case("scatter_add", "src larger", lambda x, i, s: torch.scatter_add(x, 0, i, cut(s, i)), [x, k, src], {"axis": 0}, wrt=[0, 2])
    case("scatter_add", "0-d", lambda x, i, s: torch.scatter_add(x, 0, i, s), [dot, torch.tensor(0), make("s", ())], {"axis": 0}, wrt=[0, 2])
    some = lambda t: torch.where(t.abs() < 0.7, torch.zeros_like(t), t)  # zeros and ties
    for reduce in ("sum", "prod", "mean", "amax", "amin"):
        for include in (True, False):
            o = {"axis": 0, "reduce": reduce, "include_self": include}
            fn = lambda x, i, s: torch.scatter_reduce(x, 0, i, cut(s, i), reduce, include_self=include)
            label = reduce + ("" if include else ", without self")
            case("scatter_reduce", label, fn, [x, k, src], o, wrt=[0, 2])
            case("scatter_reduce", label + ", ties and zeros", fn, [some(x), k, some(src).round()], o, wrt=[0, 2])
            case("scatter_reduce", label + ", no index", fn, [x, nowhere, src], o, wrt=[0, 2])
            if reduce != "mean":
                case("scatter_reduce", label + ", integers", fn, [(x * 4).long(), k, (src * 4).long()], o, wrt=[])
    case("scatter_reduce", "amax of NaN", lambda x, i, s: torch.scatter_reduce(x, 0, i, s, "amax"),
         [t64(NAN, 1, 2), torch.tensor([0, 1, 1]), t64(3, NAN, 5)], {"axis": 0, "reduce": "amax", "include_self": True}, gradients=False)
    rows, repeated = torch.tensor([2, 0]), torch.tensor([2, 0, 2, 2, 1])
    for label, a, axis, i, s in (("repeated", x, 0, repeated, src), ("columns", x, 1, torch.tensor([3, 1]), make("s", (3, 2))),
                                 ("0-d", dot, 0, torch.tensor([0]), make("s", ())), ("vector, 0-d index", x[0], 0, torch.tensor(2), make("s", (1,))),
                                 ("no index", x, 0, nowhere[:, 0], src[:0])):
        case("index_add", label, lambda x, i, s: torch.index_add(x, axis, i, s), [a, i, s], {"axis": axis, "alpha": 1}, wrt=[0, 2])
        case("index_add", label + ", alpha", lambda x, i, s: torch.index_add(x, axis, i, s, alpha=-0.5), [a, i, s], {"axis": axis, "alpha": -0.5}, wrt=[0, 2])
        if label != "repeated":
            case("index_copy", label, lambda x, i, s: torch.index_copy(x, axis, i, s), [a, i, s], {"axis": axis}, wrt=[0, 2])
    for label, a, axis, i in (("rows", x, 0, rows), ("negative", x, -1, torch.tensor([-1, 1, -1])), ("0-d", dot, 0, torch.tensor(0)), ("no index", x, 0, nowhere[:, 0])):
        case("index_fill", label, lambda x, i: torch.index_fill(x, axis, i, -1.5), [a, i], {"axis": axis, "number": -1.5}, wrt=[0])
        if label != "negative":  # whose gradient PyTorch lacks
            case("index_fill", label + ", a tensor", lambda x, i, v: torch.index_fill(x, axis, i, v), [a, i, make("v", ())], {"axis": axis}, wrt=[0, 2])


def cases():
    entries()
    masks()
    along()

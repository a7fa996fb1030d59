"""Ops without elements or without axes."""
import torch
import torch.nn.functional as F

from golden_case import case, make


def cases():
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
        case("cross_entropy", f"no rows, {reduction}", lambda x, t: F.cross_entropy(x, t, **o), [pair[0], nowhere[0]], o, wrt=[0],
             second=reduction != "mean")  # 0 / 0 of no gradient at all
    for a, b in (((), (3,)), ((0,), (0,))):
        case("mul", f"edges {list(a)}", torch.mul, [make("edges", a), make("edges", b)])
    case("max_pool2d", "no pictures", lambda x: F.max_pool2d(x, 2), [torch.empty(0, 2, 4, 4, dtype=torch.float64)], {"kernel": [2, 2]})
    case("avg_pool2d", "no pictures", lambda x: F.avg_pool2d(x, 2), [torch.empty(0, 2, 4, 4, dtype=torch.float64)], {"kernel": [2, 2]})
    case("layer_norm", "no rows", lambda x, w, b: F.layer_norm(x, (3,), w, b),
         [pair[0], make("edges", (3,)), make("edges", (3,))], {"normalized": [3]})
    case("softmax", "0-d", lambda x: torch.softmax(x, 0), [dot], {"axis": 0})
    case("log_softmax", "empty", lambda x: torch.log_softmax(x, 1), [none], {"axis": 1})

"""Views, flips, joins and gathers."""
import torch
import torch.nn.functional as F

from golden_case import case, make


def cases():
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

"""Matrix products, linear and convolutions."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, case, make, t64


def cases():
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

"""Convolutions and pools over one to three axes, transposed convolutions, resampling, unfold and fold."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, case, make, t64


def convolutions():
    plain = [
        ("plain", 1, (2, 3, 7), (4, 3, 3), {}, True), ("no bias", 1, (1, 2, 6), (3, 2, 2), {}, False),
        ("all options", 1, (2, 4, 11), (6, 2, 3), {"stride": [2], "padding": [2], "dilation": [3], "groups": 2}, True),
        ("same", 1, (1, 2, 6), (3, 2, 4), {"padding": "same", "dilation": [3]}, True), ("no batch", 1, (2, 6), (3, 2, 2), {"stride": [2]}, True),
        ("same, uneven", 2, (1, 2, 5, 6), (3, 2, 2, 4), {"padding": "same", "dilation": [1, 3]}, True),
        ("valid", 2, (1, 2, 4, 4), (3, 2, 2, 2), {"padding": "valid"}, True), ("no batch", 2, (2, 4, 5), (3, 2, 3, 2), {"padding": [1, 0]}, True),
        ("plain", 3, (2, 2, 4, 3, 5), (3, 2, 2, 3, 2), {}, True), ("no bias", 3, (1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {}, False),
        ("all options", 3, (1, 4, 5, 4, 6), (6, 2, 2, 3, 2), {"stride": [2, 1, 3], "padding": [1, 2, 0], "dilation": [2, 1, 3], "groups": 2}, True),
        ("depthwise, same", 3, (1, 3, 3, 4, 3), (3, 1, 3, 2, 3), {"padding": "same", "groups": 3}, True),
        ("no batch", 3, (2, 3, 3, 4), (3, 2, 2, 2, 3), {}, True), ("no volumes", 3, (0, 2, 3, 3, 3), (3, 2, 2, 2, 2), {}, True)]
    for label, axes, x, w, o, bias in plain:
        fn = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
        inputs = [make("conv", x), make("conv", w)] + ([make("conv", (w[0],))] if bias else [])
        case(f"conv{axes}d", label, lambda x, w, b=None: fn(x, w, b, **o), inputs, o)
    transposed = [
        ("plain", 1, (2, 3, 5), (3, 4, 3), {}, True), ("no batch, no bias", 1, (3, 5), (3, 2, 2), {"stride": [3]}, False),
        ("all options", 1, (1, 4, 5), (4, 3, 3), {"stride": [3], "padding": [2], "output_padding": [2], "dilation": [2], "groups": 2}, True),
        ("output padding below dilation", 1, (1, 2, 4), (2, 3, 2), {"output_padding": [2], "dilation": [3]}, True),
        ("plain", 2, (2, 3, 3, 4), (3, 4, 3, 2), {}, True), ("doubled", 2, (1, 3, 3, 4), (3, 2, 4, 4), {"stride": [2, 2], "padding": [1, 1]}, True),
        ("all options", 2, (2, 4, 3, 4), (4, 3, 2, 3),
         {"stride": [2, 3], "padding": [1, 2], "output_padding": [1, 2], "dilation": [3, 1], "groups": 2}, True),
        ("depthwise, no bias", 2, (1, 3, 4, 3), (3, 1, 3, 3), {"groups": 3, "padding": [1, 1]}, False), ("no batch", 2, (2, 3, 3), (2, 3, 2, 2), {}, True),
        ("no pictures", 2, (0, 2, 3, 3), (2, 3, 2, 2), {}, True),
        ("plain", 3, (1, 2, 2, 3, 3), (2, 3, 2, 2, 2), {}, True),
        ("all options", 3, (2, 4, 2, 3, 2), (4, 2, 3, 2, 2),
         {"stride": [2, 1, 3], "padding": [1, 0, 1], "output_padding": [1, 1, 2], "dilation": [1, 2, 1], "groups": 2}, True),
        ("no batch, no bias", 3, (2, 2, 2, 3), (2, 3, 2, 1, 2), {"stride": [2, 2, 1]}, False)]
    for label, axes, x, w, o, bias in transposed:
        fn = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
        inputs = [make("conv", x), make("conv", w)] + ([make("conv", (w[1] * o.get("groups", 1),))] if bias else [])
        case(f"conv_transpose{axes}d", label, lambda x, w, b=None: fn(x, w, b, **o), inputs, o)


def pools():
    shapes = [("plain", 1, (2, 3, 8), {"kernel": [2]}), ("no batch, ragged", 1, (3, 9), {"kernel": [4], "stride": [2], "padding": [1]}),
              ("ceil", 1, (1, 2, 8), {"kernel": [3], "stride": [2], "padding": [1], "ceil_mode": True}),
              ("no batch", 2, (3, 5, 6), {"kernel": [3, 2], "stride": [1, 2], "padding": [1, 1]}),
              ("plain", 3, (2, 2, 4, 4, 6), {"kernel": [2, 2, 3]}),
              ("padding", 3, (1, 2, 5, 4, 5), {"kernel": [3, 2, 3], "stride": [2, 1, 2], "padding": [1, 0, 1]}),
              ("ceil", 3, (1, 1, 5, 6, 4), {"kernel": [2, 3, 3], "stride": [2, 2, 3], "padding": [1, 1, 0], "ceil_mode": True}),
              ("no batch", 3, (2, 3, 4, 3), {"kernel": [2, 2, 2], "stride": [1, 1, 1]}),
              ("no volumes", 3, (0, 2, 2, 2, 2), {"kernel": [2, 2, 2]})]
    for label, axes, shape, o in shapes:
        largest = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[axes]
        average = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]
        args = {"kernel_size": o["kernel"], "stride": o.get("stride"), "padding": o.get("padding", 0), "ceil_mode": o.get("ceil_mode", False)}
        if axes == 2:
            case("max_pool2d", label, lambda x: F.max_pool2d(x, **args), [make("pool", shape)], o)
        else:
            case(f"max_pool{axes}d", label, lambda x: largest(x, **args, return_indices=True), [make("pool", shape)], o)
        case(f"avg_pool{axes}d", label, lambda x: average(x, **args), [make("pool", shape)], o)
        for include in ([False] if "padding" in o else []):
            case(f"avg_pool{axes}d", f"{label}, padding not counted", lambda x: average(x, **args, count_include_pad=include),
                 [make("pool", shape)], o | {"count_include_pad": include})
        if axes > 1:
            case(f"avg_pool{axes}d", f"{label}, own divisor", lambda x: average(x, **args, divisor_override=3),
                 [make("pool", shape)], o | {"divisor": 3})
    case("max_pool1d", "dilation", lambda x: F.max_pool1d(x, 3, 2, 1, 2, return_indices=True), [make("pool", (1, 2, 10))],
         {"kernel": [3], "stride": [2], "padding": [1], "dilation": [2]})
    case("max_pool3d", "dilation", lambda x: F.max_pool3d(x, 2, 1, 1, (1, 2, 3), return_indices=True), [make("pool", (1, 2, 3, 4, 5))],
         {"kernel": [2, 2, 2], "stride": [1, 1, 1], "padding": [1, 1, 1], "dilation": [1, 2, 3]})
    case("max_pool3d", "ties and NaN", lambda x: F.max_pool3d(x, (1, 2, 2), return_indices=True),
         [t64(1, 1, -INF, -INF, 1, 1, -INF, -INF, NAN, 1, 2, NAN, 3, 1, 0, 2).reshape(1, 1, 2, 2, 4)], {"kernel": [1, 2, 2]})
    adaptive = [("ragged", 1, (2, 3, 7), [3]), ("one, no batch", 1, (3, 5), [1]), ("more", 1, (1, 2, 3), [5]),
                ("ragged", 2, (2, 3, 7, 5), [3, 4]), ("even", 2, (1, 2, 6, 4), [3, 2]), ("one", 2, (2, 3, 4, 5), [1, 1]),
                ("more, no batch", 2, (2, 3, 2), [5, 3]), ("no pictures", 2, (0, 2, 4, 4), [2, 3]),
                ("ragged", 3, (1, 2, 5, 4, 7), [2, 3, 3]), ("one", 3, (2, 2, 2, 3, 2), [1, 1, 1]), ("no batch", 3, (2, 3, 4, 5), [3, 2, 2])]
    for label, axes, shape, size in adaptive:
        largest = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[axes]
        average = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]
        n = size[0] if axes == 1 else size
        case(f"adaptive_max_pool{axes}d", label, lambda x: largest(x, n, return_indices=True), [make("pool", shape)], {"size": size})
        case(f"adaptive_avg_pool{axes}d", label, lambda x: average(x, n), [make("pool", shape)], {"size": size})


def resampling():
    sizes = [((2, 2, 5), [8]), ((1, 3, 7), [3]), ((1, 2, 4, 5), [7, 9]), ((2, 1, 6, 7), [3, 4]), ((1, 2, 5, 3), [5, 1]),
             ((1, 1, 3, 4, 5), [4, 7, 3]), ((1, 2, 2, 2, 2), [4, 2, 1])]
    scales = [((1, 2, 6), [1.7]), ((1, 2, 4, 5), [2.0, 1.3]), ((1, 1, 7, 6), [0.6, 0.4]), ((1, 1, 3, 2, 4), [1.5, 2.0, 0.7])]
    modes = {"nearest": (3, 4, 5), "nearest_exact": (3, 4, 5), "area": (3, 4, 5), "linear": (3,), "bilinear": (4,), "bicubic": (4,), "trilinear": (5,)}
    for mode, ranks in modes.items():
        smooth = mode in ("linear", "bilinear", "bicubic", "trilinear")
        for given, key in ((sizes, "size"), (scales, "scale_factor")):
            for shape, to in given:
                if len(shape) not in ranks:
                    continue
                for more in [{}] + ([{"align_corners": True}] if smooth else []) + ([{"antialias": True}] if mode in ("bilinear", "bicubic") else []) \
                        + ([{"recompute_scale_factor": True}] if key == "scale_factor" else []):
                    o = {key: to, "mode": mode} | more
                    args = {key: to if len(to) > 1 else to[0], "mode": mode.replace("_", "-")} | more
                    label = " ".join([mode, str(list(shape)), "to" if key == "size" else "by", str(to)] + list(more))
                    case("interpolate", label, lambda x: F.interpolate(x, **args), [make("interpolate", shape)], o)
    case("interpolate", "NaN and Inf beside", lambda x: F.interpolate(x, size=5, mode="linear"),
         [t64(1, 2, NAN, 3, INF, 4).reshape(1, 2, 3)], {"size": [5], "mode": "linear"}, gradients=False)
    case("interpolate", "uint8", lambda x: F.interpolate(x, size=(3, 5), mode="nearest"), [torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)],
         {"size": [3, 5], "mode": "nearest"})
    case("interpolate", "no pictures", lambda x: F.interpolate(x, size=(3, 5), mode="bilinear"), [torch.empty(0, 2, 4, 4, dtype=torch.float64)],
         {"size": [3, 5], "mode": "bilinear"})
    case("pixel_shuffle", "plain", lambda x: F.pixel_shuffle(x, 2), [make("shuffle", (2, 8, 3, 2))], {"factor": 2})
    case("pixel_shuffle", "no batch, int64", lambda x: F.pixel_shuffle(x, 3), [torch.arange(36).reshape(9, 2, 2)], {"factor": 3})
    case("pixel_unshuffle", "plain", lambda x: F.pixel_unshuffle(x, 2), [make("shuffle", (2, 3, 4, 6))], {"factor": 2})
    case("pixel_unshuffle", "two batches", lambda x: F.pixel_unshuffle(x, 3), [make("shuffle", (2, 1, 1, 3, 6))], {"factor": 3})


def cases():
    convolutions()
    pools()
    resampling()
    windows = [("plain", (2, 3, 4, 5), {"kernel": [2, 3]}), ("stride", (1, 2, 6, 6), {"kernel": [2, 2], "stride": [2, 2]}),
               ("no batch, all options", (2, 5, 6), {"kernel": [2, 2], "dilation": [2, 3], "padding": [1, 2], "stride": [2, 1]}),
               ("no pictures", (0, 2, 3, 3), {"kernel": [2, 2]})]
    for label, shape, o in windows:
        args = {"kernel_size": o["kernel"], "dilation": o.get("dilation", 1), "padding": o.get("padding", 0), "stride": o.get("stride", 1)}
        case("unfold", label, lambda x: F.unfold(x, **args), [make("unfold", shape)], o)
        size = list(shape[-2:])
        columns = tuple(F.unfold(torch.zeros(shape), **args).shape)
        if shape[0]:  # PyTorch's fold wants pictures
            case("fold", label, lambda x: F.fold(x, size, **args), [make("fold", columns)], o | {"size": size})

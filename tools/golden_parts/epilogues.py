"""Products and convolutions with an activation of their result, and two products around one."""
import torch.nn.functional as F

from golden_case import case, make

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def cases():
    for name, fn in ACTIVATIONS.items():
        o = {"activation": name}
        case("linear", name, lambda x, w, b: fn(F.linear(x, w, b)), [make("linear", (2, 5, 3)), make("linear", (4, 3)), make("linear", (4,))], o)
        case("linear", f"{name}, no bias", lambda x, w: fn(F.linear(x, w)), [make("linear", (5, 8)), make("linear", (16, 8))], o)
        case("feed_forward", name, lambda x, w1, b1, w2, b2: F.linear(fn(F.linear(x, w1, b1)), w2, b2),
             [make("feed", (2, 3, 4)), make("feed", (5, 4)), make("feed", (5,)), make("feed", (2, 5)), make("feed", (2,))], o)
        case("feed_forward", f"{name}, no bias", lambda x, w1, w2: F.linear(fn(F.linear(x, w1)), w2),
             [make("feed", (6, 8)), make("feed", (16, 8)), make("feed", (8, 16))], o)
        for axes, conv in ((1, F.conv1d), (2, F.conv2d), (3, F.conv3d)):
            size = (2, 3, 4, 3, 5)[: axes + 2]
            case(f"conv{axes}d", name, lambda x, w, b: fn(conv(x, w, b, padding=1)),
                 [make("conv", size), make("conv", (4, 3) + (2,) * axes), make("conv", (4,))], o | {"padding": [1] * axes})

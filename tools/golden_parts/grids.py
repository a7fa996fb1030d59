"""grid_sample: every mode, padding and convention, pictures and volumes."""
import torch
import torch.nn.functional as F

from golden_case import case, make


def cases():
    for padding in ("zeros", "border", "reflection"):
        for align in (False, True):
            for mode in ("bilinear", "nearest"):
                o = {"mode": mode, "padding_mode": padding, "align_corners": align}
                run = lambda x, g: F.grid_sample(x, g, **o)
                label = f"{mode}, {padding}" + (", corners" if align else "")
                case("grid_sample", label, run, [make("grid x", (2, 2, 4, 5)), make("grid", (2, 3, 4, 2), -1.6, 1.6)], o)
                case("grid_sample", label + ", volume", run, [make("grid v", (1, 2, 2, 3, 4)), make("grid", (1, 2, 2, 2, 3), -1.3, 1.3)], o)
                case("grid_sample", label + ", one row", run, [make("grid r", (1, 1, 1, 3)), make("grid", (1, 1, 5, 2), -2.5, 2.5)], o)
    case("grid_sample", "the identity", lambda x, g: F.grid_sample(x, g, align_corners=True),
         [make("grid i", (1, 2, 3, 3)), torch.stack(torch.meshgrid(*[torch.tensor([-1.0, 0.0, 1.0]).double()] * 2, indexing="xy"), -1)[None]],
         {"align_corners": True}, wrt=[0])
    case("grid_sample", "no places", lambda x, g: F.grid_sample(x, g, align_corners=False), [make("grid x", (2, 2, 4, 5)), make("grid", (2, 0, 4, 2))])

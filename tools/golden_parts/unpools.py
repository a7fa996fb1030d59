"""max_unpool of what max_pool gave, with every option. Windows do not overlap: PyTorch gives every one of equal indices a
gradient, though one of them stays."""
import torch
import torch.nn.functional as F

from golden_case import case, make


def cases():
    sizes = {1: (7,), 2: (5, 7), 3: (4, 5, 4)}
    for axes, size in sizes.items():
        op, pool, unpool = f"max_unpool{axes}d", getattr(F, f"max_pool{axes}d"), getattr(F, f"max_unpool{axes}d")
        for label, o in {"stride": {"kernel": 2, "stride": 3}, "padding": {"kernel": 2, "stride": 2, "padding": 1}, "remainder": {"kernel": 2}}.items():
            y, at = pool(make(op, (2, 3, *size)), o["kernel"], o.get("stride"), o.get("padding", 0), return_indices=True)
            run = lambda y, at: unpool(y, at, o["kernel"], o.get("stride"), o.get("padding", 0), size)
            case(op, label, run, [y, at], o | {"output_size": list(size)}, wrt=[0])
        y, at = pool(make(op, (3, *(4,) * axes)), 2, return_indices=True)
        case(op, "one sample", lambda y, at: unpool(y, at, 2), [y, at], {"kernel": 2}, wrt=[0])

"""unique with all it can give."""
import torch

from golden_case import INF, NAN, case, make, t64


def cases():
    run = lambda x: torch.unique(x, return_inverse=True, return_counts=True)
    case("unique", "repeated", run, [make("unique", (4, 6)).round()], gradients=False)
    case("unique", "all different", run, [make("unique", (3, 2, 4))], gradients=False)
    case("unique", "special", run, [t64(1, INF, -INF, 1, NAN, 0, NAN, INF)], gradients=False)
    case("unique", "integers", run, [torch.tensor([[3, -1, 3], [7, 3, -1]])])
    case("unique", "bool", run, [torch.tensor([True, False, True])])
    case("unique", "0-d", run, [make("unique", ())], gradients=False)
    case("unique", "empty", run, [torch.empty(2, 0, dtype=torch.float64)], gradients=False)

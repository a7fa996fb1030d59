"""Creation and random numbers."""
import torch
import torch.nn.functional as F

from golden_case import INF, case, quantile, words32, words64


def cases():
    f = lambda values: torch.tensor(values, dtype=torch.float64)
    case("full", "2.5", lambda: torch.full((2, 3), 2.5).double(), [], {"shape": [2, 3], "value": 2.5})
    case("full", "inf", lambda: torch.full((2,), INF).double(), [], {"shape": [2], "value": "inf"})
    case("arange", "whole steps", lambda: torch.arange(-3, 9, 2, dtype=torch.float64), [], {"start": -3, "stop": 9, "step": 2})
    case("arange", "backwards", lambda: torch.arange(1, -2, -0.25, dtype=torch.float64), [], {"start": 1, "stop": -2, "step": -0.25})
    case("linspace", "seven", lambda: torch.linspace(-1, 2, 7, dtype=torch.float64), [], {"start": -1, "stop": 2, "count": 7})
    case("linspace", "one", lambda: torch.linspace(5, 2, 1, dtype=torch.float64), [], {"start": 5, "stop": 2, "count": 1})
    case("eye", "wide", lambda: torch.eye(2, 4, dtype=torch.float64), [], {"shape": [2, 4]})
    case("one_hot", "classes", lambda i: F.one_hot(i, 4), [torch.tensor([[0, 3], [1, 1]])], {"classes": 4})
    seed, n = 2**40 + 11, 10
    o = {"seed": seed, "shape": [n]}
    uniform64 = f([(w >> 11) / 2.0**53 for w in words64(n, seed)])
    uniform32 = f([(w >> 8) / 2.0**24 for w in words32(n, seed)])
    normal64 = f([quantile(w, 64) for w in words64(n, seed)])
    normal32 = f([quantile(w, 32) for w in words32(n, seed)])
    case("rand", "seeded", lambda: uniform64, [], o, fn32=lambda: uniform32)
    case("uniform", "seeded", lambda: uniform64 * 3 - 1, [], o | {"low": -1, "high": 2}, fn32=lambda: uniform32 * 3 - 1)
    case("randn", "seeded", lambda: normal64, [], o, fn32=lambda: normal32)
    case("normal", "seeded", lambda: normal64 * 0.5 + 2, [], o | {"mean": 2, "std": 0.5}, fn32=lambda: normal32 * 0.5 + 2)
    case("randint", "seeded", lambda: torch.tensor([-5 + (w * 17 >> 64) for w in words64(n, seed)]), [], o | {"low": -5, "high": 12})
    case("bernoulli", "seeded", lambda: torch.tensor([w / 2**32 < 0.3 for w in words32(n, seed)]), [], o | {"p": 0.3})
    case("randperm", "seeded", lambda: torch.tensor(sorted(range(n), key=lambda i: words64(n, seed)[i])), [], o)

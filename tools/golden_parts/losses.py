"""Losses beyond the simplest, and distances: every option, kinks, special values."""
import torch
import torch.nn.functional as F

from golden_case import INF, case, make, t64


def cases():
    for reduction in ("mean", "sum", "none"):
        o = {"reduction": reduction}
        pair = [make("loss x", (3, 4)), make("loss t", (3, 4))]
        case("mse_loss", f"unequal, {reduction}", lambda a, b: F.mse_loss(a, b, **o), pair, o)
        case("l1_loss", f"unequal, {reduction}", lambda a, b: F.l1_loss(a, b, **o), pair, o)
        for beta in (1.0, 0.25, 0.0):
            case("smooth_l1_loss", f"beta {beta}, {reduction}", lambda a, b: F.smooth_l1_loss(a, b, beta=beta, **o), pair, o | {"beta": beta})
        for delta in (1.0, 0.25):
            case("huber_loss", f"delta {delta}, {reduction}", lambda a, b: F.huber_loss(a, b, delta=delta, **o), pair, o | {"delta": delta})
        p, t, w = make("bce p", (3, 4), 0, 1), make("bce t", (3, 4), 0, 1), make("bce", (4,), 0.5, 2)
        # PyTorch's double backward adds 1e-12 to divisors; the formula itself is exact.
        end = {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction]
        formula = lambda p, t, w=1.0: end(w * -(t * torch.log(p) + (1 - t) * torch.log1p(-p)))
        case("bce", f"plain, {reduction}", lambda p, t: F.binary_cross_entropy(p, t, **o), [p, t], o, second=formula)
        case("bce", f"weighted, {reduction}", lambda p, t, w: F.binary_cross_entropy(p, t, w, **o), [p, t, w], o, wrt=[0, 1], second=formula)
        case("poisson_nll_loss", f"logarithms, {reduction}", lambda x, t: F.poisson_nll_loss(x, t, **o),
             [make("poisson", (3, 4)), make("poisson", (3, 4), 0, 3)], o)
        case("poisson_nll_loss", f"rates, full, {reduction}", lambda x, t: F.poisson_nll_loss(x, t, log_input=False, full=True, **o),
             [make("poisson", (3, 4), 0.25, 2), make("poisson", (3, 4), 0, 3)], o | {"log_input": False, "full": True})
        for label, shape in [("a variance each", (3, 4)), ("a variance a row", (3, 1))]:
            full = shape == (3, 4)
            case("gaussian_nll_loss", f"{label}, {reduction}", lambda x, t, v: F.gaussian_nll_loss(x, t, v, full=full, **o),
                 pair + [make("variance", shape, 0.25, 2)], o | {"full": full})
        a, b, y = make("cosine a", (4, 5)), make("cosine b", (4, 5)), torch.tensor([1, -1, -1, 1])
        for margin in (0.0, 0.5, -0.5):
            case("cosine_embedding_loss", f"margin {margin}, {reduction}", lambda a, b, y: F.cosine_embedding_loss(a, b, y, margin=margin, **o), [a, b, y],
                 o | {"margin": margin})
        triple = [make(f"triplet {k}", (4, 5)) for k in range(3)]
        for label, extra in [("plain", {}), ("swap", {"swap": True, "margin": 2.0}), ("p 1", {"p": 1.0, "margin": 3.0})]:
            case("triplet_margin_loss", f"{label}, {reduction}", lambda a, p, n: F.triplet_margin_loss(a, p, n, **extra, **o), triple, o | extra)
        log_p = torch.log_softmax(make("ce", (6, 5)), 1).float().double()
        case("nll_loss", f"ignore 0, {reduction}", lambda x, t: F.nll_loss(x, t, ignore_index=0, **o), [log_p, torch.tensor([1, 4, 0, 0, 2, 3])],
             o | {"ignore_index": 0}, wrt=[0])
        chances = torch.softmax(make("ce", (2, 5, 3)), 1).float().double()
        case("cross_entropy", f"probabilities of pictures, {reduction}", lambda z, p: F.cross_entropy(z, p, **o), [make("ce z", (2, 5, 3)), chances], o)
        z, p = make("bce", (3, 4), -4, 4), make("bce", (3, 4), 0, 1)
        case("bce_with_logits", f"gradient of the target, {reduction}", lambda x, t, w, q: F.binary_cross_entropy_with_logits(x, t, w, pos_weight=q, **o),
             [z, p, make("bce w", (4,), 0.5, 2), make("bce q", (4,), 0.5, 2)], o, wrt=[0, 1])
    for reduction in ("mean", "sum", "none", "batchmean"):
        o = {"reduction": reduction}
        x = torch.log_softmax(make("kl", (3, 5)), 1).float().double()
        chances = torch.softmax(make("kl t", (3, 5)), 1).float().double()
        case("kl_div", f"probabilities, {reduction}", lambda x, t: F.kl_div(x, t, **o), [x, chances], o)
        case("kl_div", f"logarithms, {reduction}", lambda x, t: F.kl_div(x, t, log_target=True, **o), [x, torch.log(chances).float().double()],
             o | {"log_target": True})
    case("kl_div", "target 0", lambda x, t: F.kl_div(x, t, reduction="none"), [t64(-1, -2, -0.5), t64(0, 0.5, 1)], {"reduction": "none"}, wrt=[0])
    case("smooth_l1_loss", "kinks", lambda a, b: F.smooth_l1_loss(a, b, reduction="none"), [t64(0, 1, -1, 2), t64(0, 0, 0, 0)], {"reduction": "none"})
    case("huber_loss", "kinks", lambda a, b: F.huber_loss(a, b, reduction="none"), [t64(0, 1, -1, 2, INF), t64(0, 0, 0, 0, 0)], {"reduction": "none"})
    ends = lambda p, t: F.binary_cross_entropy(p, t, reduction="none")
    case("bce", "right ends", ends, [t64(0, 1, 0.5), t64(0, 1, 0.5)], {"reduction": "none"}, wrt=[0], second=False)
    # PyTorch divides by a float32 1e-12 even in float64, so values alone.
    case("bce", "wrong ends", ends, [t64(0, 1, 0.25), t64(1, 0, 0.5)], {"reduction": "none"}, gradients=False)
    case("gaussian_nll_loss", "variance below eps", lambda x, t, v: F.gaussian_nll_loss(x, t, v, eps=0.5), [t64(1, 2), t64(0.5, 1), t64(0.25, 1)], {"eps": 0.5})
    case("cosine_embedding_loss", "one pair", lambda a, b, y: F.cosine_embedding_loss(a, b, y), [make("cosine a", (5,)), make("cosine b", (5,)), torch.tensor(1)])
    for label, first, second, axis in [("rows", (3, 5), (3, 5), 1), ("columns, broadcast", (4, 3), (4, 1), 0), ("middle axis", (2, 3, 4), (3, 4), -2)]:
        case("cosine_similarity", label, lambda a, b: F.cosine_similarity(a, b, axis), [make("cosine a", first), make("cosine b", second)], {"axis": axis})
    case("cosine_similarity", "zeros", lambda a, b: F.cosine_similarity(a, b, 1), [torch.zeros(2, 3, dtype=torch.float64), make("cosine", (2, 3))], {"axis": 1},
         gradients=False)
    for p in (1.0, 2.0, 3.0, INF):
        o = {"p": "inf" if p == INF else p, "keepdim": p == 1}
        case("pairwise_distance", f"p {p}", lambda a, b: F.pairwise_distance(a, b, p, keepdim=p == 1), [make("distance a", (3, 5)), make("distance b", (3, 5))], o)
    case("pairwise_distance", "broadcast", F.pairwise_distance, [make("distance", (2, 3, 4)), make("distance", (4,))])
    case("pairwise_distance", "equal", F.pairwise_distance, [t64(1, 2), t64(1, 2)])

    x, w = make("lce x", (6, 4)), make("lce w", (5, 4))
    some = torch.tensor([1, -100, 0, -100, 2, 3])
    for reduction in ("mean", "sum"):
        for label, t, o in [("plain", torch.tensor([1, 4, 0, 0, 2, 3]), {}), ("some ignored", some, {}), ("smoothed", some, {"label_smoothing": 0.2})]:
            o = o | {"reduction": reduction}
            case("linear_cross_entropy", f"{label}, {reduction}", lambda x, w, t: F.cross_entropy(F.linear(x, w), t, **o), [x, w, t], o, wrt=[0, 1])
            case("linear_cross_entropy", f"{label}, {reduction}, groups of 4", lambda x, w, t: F.cross_entropy(F.linear(x, w), t, **o), [x, w, t],
                 o | {"rows": 4}, wrt=[0, 1])
    case("linear_cross_entropy", "a batch of rows", lambda x, w, t: F.cross_entropy(F.linear(x, w).flatten(0, 1), t.flatten()),
         [make("lce x", (2, 3, 4)), w, some.reshape(2, 3)], wrt=[0, 1])

"""Softmax, losses, norms, pools and dropout."""
import torch
import torch.nn.functional as F

from golden_case import INF, NAN, case, make, t64, words32


def cases():
    x = make("softmax", (3, 5), -4, 4)
    for op, fn in {"softmax": torch.softmax, "log_softmax": torch.log_softmax}.items():
        case(op, "rows", lambda x: fn(x, -1), [x], {"axis": -1})
        case(op, "columns", lambda x: fn(x, 0), [x], {"axis": 0})
        case(op, "middle", lambda x: fn(x, 1), [make(op, (2, 3, 4))], {"axis": 1})
        case(op, "large", lambda x: fn(x, 1), [make(op, (2, 6), -500, 500)], {"axis": 1})
        rows = t64(-INF, 1, 2, -INF, -INF, -INF, INF, 1, 2, NAN, 1, 2).reshape(4, 3)
        case(op, "rows of -Inf, Inf, NaN", lambda x: fn(x, 1), [rows], {"axis": 1}, gradients=False)
        case(op, "part -Inf", lambda x: fn(x, 1), [t64(-INF, 1, 2).reshape(1, 3)], {"axis": 1})
        case(op, "one class", lambda x: fn(x, 1), [make(op, (4, 1))], {"axis": 1})

    z, target = make("ce", (6, 5), -3, 3), torch.tensor([1, 4, 0, 0, 2, 3])
    some = torch.tensor([1, -100, 0, -100, 2, 3])
    weight = make("weight", (5,), 0.5, 2)
    for reduction in ("mean", "sum", "none"):
        for label, t, o in [("plain", target, {}), ("some ignored", some, {}), ("weighted", some, {"weight": True}),
                            ("smoothed", some, {"label_smoothing": 0.2}), ("weighted and smoothed", some, {"weight": True, "label_smoothing": 0.3}),
                            ("ignore 0", target, {"ignore_index": 0}), ("all ignored", some * 0 - 100, {})]:
            o = o | {"reduction": reduction}
            args = {"reduction": reduction, "label_smoothing": o.get("label_smoothing", 0.0), "ignore_index": o.get("ignore_index", -100)}
            inputs = [z, t] + ([weight] if o.get("weight") else [])
            case("cross_entropy", f"{label}, {reduction}", lambda z, t, w=None: F.cross_entropy(z, t, w, **args), inputs, o, wrt=[0],
                 gradients=not (label == "all ignored" and reduction == "mean"))
        probabilities = torch.softmax(make("ce", (4, 5)), 1).float().double()
        case("cross_entropy", f"probabilities, {reduction}", lambda z, p, w: F.cross_entropy(z, p, w, reduction=reduction, label_smoothing=0.1),
             [make("ce", (4, 5)), probabilities, weight], {"reduction": reduction, "label_smoothing": 0.1, "weight": True}, wrt=[0, 1])
        log_p = torch.log_softmax(z, 1).float().double()
        case("nll_loss", f"some ignored, {reduction}", lambda x, t, w: F.nll_loss(x, t, w, reduction=reduction), [log_p, some, weight],
             {"reduction": reduction, "weight": True}, wrt=[0])
        a, b = make("loss", (3, 4)), make("loss", (3, 4))
        case("mse_loss", reduction, lambda a, b: F.mse_loss(a, b, reduction=reduction), [a, b], {"reduction": reduction})
        case("l1_loss", reduction, lambda a, b: F.l1_loss(a, b, reduction=reduction), [a, b], {"reduction": reduction})
        chances, pos = make("bce", (3, 4), 0, 1), make("bce", (4,), 0.5, 2)
        case("bce_with_logits", reduction,
             lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, reduction=reduction, pos_weight=p),
             [make("bce", (3, 4), -30, 30), chances, make("bce", (4,), 0.5, 2), pos], {"reduction": reduction}, wrt=[0])
    case("cross_entropy", "pictures", F.cross_entropy, [make("ce", (2, 5, 3, 2)), torch.arange(12).reshape(2, 3, 2) % 5], wrt=[0])
    case("cross_entropy", "one row", F.cross_entropy, [z[0], target[0]], wrt=[0])
    case("cross_entropy", "-Inf beside the target", F.cross_entropy, [t64(1, -INF, 2, 0.5, 1, -INF).reshape(2, 3), torch.tensor([0, 1])], wrt=[0])

    def batch_norm(x, mean, var, w=None, b=None, training=True, momentum=0.1, eps=1e-5):
        mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, w, b, training, momentum, eps), mean.detach(), var.detach()
    mean, var = make("bn", (3,)), make("bn", (3,), 0.5, 2)
    w, b = make("bn", (3,)), make("bn", (3,))
    for label, shape, o, affine in [("training", (2, 3, 4, 5), {}, True), ("evaluation", (2, 3, 4, 5), {"training": False}, True),
                                    ("rank 2", (6, 3), {"momentum": 0.3}, True), ("rank 3, no parameters", (2, 3, 4), {"eps": 0.01}, False),
                                    ("two values", (2, 3), {}, True)]:
        case("batch_norm", label, lambda *a: batch_norm(*a, **o), [make("bn", shape), mean, var] + ([w, b] if affine else []), o,
             wrt=[0] + ([3, 4] if affine else []))
    case("batch_norm", "constant channel", batch_norm, [torch.full((2, 3, 2), 1.5, dtype=torch.float64), mean, var, w, b], {}, wrt=[0, 3, 4])
    for label, shape, normal, o in [("rows", (4, 6), (6,), {}), ("two axes", (2, 3, 4), (3, 4), {"eps": 0.1}), ("one element", (3, 1), (1,), {})]:
        case("layer_norm", label, lambda x, w, b: F.layer_norm(x, normal, w, b, **o), [make("ln", shape), make("ln", normal), make("ln", normal)],
             o | {"normalized": list(normal)})
    case("layer_norm", "no parameters", lambda x: F.layer_norm(x, (5,)), [make("ln", (2, 5))], {"normalized": [5]})
    y = make("dropout", (3, 4))
    keep = torch.tensor([w / 2**32 < 0.6 for w in words32(12, 5)]).reshape(3, 4)
    case("dropout", "p = 0.4, seed 5", lambda x: torch.where(keep, x * (1 / 0.6), 0.0), [y], {"p": 0.4, "training": True, "seed": 5})
    case("dropout", "evaluation", lambda x: F.dropout(x, 0.4, False), [y], {"p": 0.4, "training": False})
    case("dropout", "p = 0", lambda x: F.dropout(x, 0.0, True), [y], {"p": 0.0, "training": True})
    case("dropout", "p = 1", lambda x: F.dropout(x, 1.0, True), [y], {"p": 1.0, "training": True})

"""What golden_optim.py runs beyond single options: trajectories of every optimizer over two groups, every schedule for 100
steps, clipping by other norms and by units, averages of weights. Formulas of starts and gradients are repeated by tests."""
import math

import torch

O = torch.optim
S = O.lr_scheduler
SHAPES = [(5,), (3, 4), (2, 2, 3)]
STEPS = 20
KEPT = (1, 5, 20)


def start(k):
    n = torch.Size(SHAPES[k]).numel()
    values = [((i * 29 + k * 13) % 64 - 31.5) / 32 for i in range(n)]
    return torch.nn.Parameter(torch.tensor(values).reshape(SHAPES[k]))


def gradient(k, step):
    n = torch.Size(SHAPES[k]).numel()
    values = [((i * 37 + step * 101 + k * 17) % 64 - 31.5) / 16 for i in range(n)]
    return torch.tensor(values).reshape(SHAPES[k])


def flat(tensors):
    return [x for t in tensors for x in t.detach().double().flatten().tolist()]


class Plain:
    """An optimizer as a function of (parameter, gradient, its state, its group's options), written plainly."""

    def __init__(self, groups, rule):
        self.groups, self.rule, self.state = groups, rule, {}

    def step(self):
        for group in self.groups:
            for p in group["params"]:
                with torch.no_grad():
                    self.rule(p, p.grad, self.state.setdefault(p, {}), **{k: v for k, v in group.items() if k != "params"})


def lion(p, g, state, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Chen et al. 2023, algorithm 2."""
    m = state.setdefault("m", torch.zeros_like(p))
    p.mul_(1 - lr * weight_decay)
    p.add_(torch.sign(betas[0] * m + (1 - betas[0]) * g), alpha=-lr)
    m.mul_(betas[1]).add_(g, alpha=1 - betas[1])


def adafactor(p, g, state, lr=1e-2, beta2_decay=-0.8, eps1=None, eps2=1e-3, d=1.0, weight_decay=0.0, relative_step=True,
              scale_parameter=True):
    """Shazeer and Stern 2018, algorithms 4 and 5, with the external rate of their section 8."""
    eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
    state["t"] = t = state.get("t", 0) + 1
    weight = t**beta2_decay
    rate = min(lr, t**-0.5) if relative_step else lr
    if scale_parameter:
        rate = rate * max(eps2, p.square().mean().sqrt().item())
    p.mul_(1 - lr * weight_decay)
    if g.dim() > 1:
        row = state.setdefault("row", torch.zeros_like(g.mean(-1, keepdim=True)))
        column = state.setdefault("column", torch.zeros_like(g.mean(-2, keepdim=True)))
        row.lerp_(g.square().mean(-1, keepdim=True), weight)
        column.lerp_(g.square().mean(-2, keepdim=True), weight)
        v = row * column / row.mean(-2, keepdim=True).clamp(min=eps1)
    else:
        v = state.setdefault("v", torch.zeros_like(g)).lerp_(g.square(), weight)
    u = g / v.clamp(min=eps1 * eps1).sqrt()
    p.sub_(rate * u / max(1.0, u.square().mean().sqrt().item() / d))


def two(make, first, second):
    """Parameter 0 with the first options, the others with the second."""
    return lambda p: make([dict(params=p[:1], **first), dict(params=p[1:], **second)])


def plain(rule, first, second):
    return lambda p: Plain([dict(params=p[:1], **first), dict(params=p[1:], **second)], rule)


TRAJECTORIES = {
    "sgd": two(O.SGD, dict(lr=0.1), dict(lr=0.03, momentum=0.9, dampening=0.2, weight_decay=0.05)),
    "sgd_nesterov": two(O.SGD, dict(lr=0.05, momentum=0.8, nesterov=True),
                        dict(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "adam": two(O.Adam, dict(lr=0.03), dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "adam_amsgrad": two(O.Adam, dict(lr=0.03, amsgrad=True), dict(lr=0.01, weight_decay=0.1, amsgrad=True)),
    "adamw": two(O.AdamW, dict(lr=0.03), dict(lr=0.01, betas=(0.3, 0.9), weight_decay=0.1)),
    "adamw_amsgrad": two(O.AdamW, dict(lr=0.03, amsgrad=True), dict(lr=0.01, betas=(0.8, 0.6), amsgrad=True)),
    "rmsprop": two(O.RMSprop, dict(lr=0.02), dict(lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.1)),
    "rmsprop_momentum": two(O.RMSprop, dict(lr=0.01, momentum=0.9), dict(lr=0.005, alpha=0.9, momentum=0.5)),
    "rmsprop_centered": two(O.RMSprop, dict(lr=0.02, centered=True), dict(lr=0.01, alpha=0.4, centered=True)),
    "rmsprop_centered_momentum": two(O.RMSprop, dict(lr=0.01, centered=True, momentum=0.9),
                                     dict(lr=0.005, alpha=0.9, centered=True, momentum=0.5, weight_decay=0.1)),
    "adagrad": two(O.Adagrad, dict(lr=0.1), dict(lr=0.05, lr_decay=0.1, weight_decay=0.1, eps=1e-6)),
    "adagrad_initial": lambda p: O.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "nadam": two(O.NAdam, dict(lr=0.02), dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, momentum_decay=0.01)),
    "nadam_decoupled": two(O.NAdam, dict(lr=0.02, decoupled_weight_decay=True),
                           dict(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)),
    "radam": two(O.RAdam, dict(lr=0.02), dict(lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)),
    "radam_decoupled": two(O.RAdam, dict(lr=0.02, decoupled_weight_decay=True),
                           dict(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)),
    "adamax": two(O.Adamax, dict(lr=0.02), dict(lr=0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)),
    "lion": plain(lion, dict(lr=0.02), dict(lr=0.01, betas=(0.81, 0.95), weight_decay=0.3)),
    "adafactor": two(O.Adafactor, dict(lr=0.3), dict(lr=0.1, beta2_decay=-0.5, weight_decay=0.05, d=2.0)),
    "adafactor_eps": two(O.Adafactor, dict(lr=0.3, eps=(1.5, 0.7)), dict(lr=0.1, eps=(0.8, 0.9))),
    "adafactor_absolute": plain(adafactor, dict(lr=0.03, relative_step=False),
                                dict(lr=0.01, relative_step=False, scale_parameter=False, weight_decay=0.1)),
    "maximize": two(O.AdamW, dict(lr=0.03, maximize=True), dict(lr=0.01)),
}


def trajectory(make, dtype):
    torch.set_default_dtype(dtype)  # of step counts and NAdam's product too
    params = [start(k) for k in range(len(SHAPES))]
    opt = make(params)
    kept = {}
    for step in range(STEPS):
        for k, p in enumerate(params):
            p.grad = gradient(k, step)
        opt.step()
        if step + 1 in KEPT:
            kept[str(step + 1)] = flat(params)
    torch.set_default_dtype(torch.float32)
    return kept


def rates(make, steps=100, lr=0.1, metric=None):
    opt = O.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    sched = make(opt)
    out, momentum = [], []
    for step in range(steps):
        out.append(opt.param_groups[0]["lr"])
        momentum.append(opt.param_groups[0]["momentum"])
        opt.step()
        sched.step(*([metric(step)] if metric else []))
    return {"lr": out, "momentum": momentum}


def metric(step):
    return 2.0 / (1 + min(step, 25)) + 0.01 * (step * 7 % 5)


SCHEDULES = {
    "lambda": lambda: rates(lambda o: S.LambdaLR(o, lambda n: 1 / (1 + 0.05 * n))),
    "multiplicative": lambda: rates(lambda o: S.MultiplicativeLR(o, lambda n: 0.99 - 0.001 * (n % 7))),
    "step": lambda: rates(lambda o: S.StepLR(o, step_size=7, gamma=0.6)),
    "multi_step": lambda: rates(lambda o: S.MultiStepLR(o, milestones=[10, 40, 40, 90], gamma=0.3)),
    "constant_factor": lambda: rates(lambda o: S.ConstantLR(o, factor=0.25, total_iters=33)),
    "linear": lambda: rates(lambda o: S.LinearLR(o, start_factor=0.2, end_factor=0.9, total_iters=60)),
    "linear_default": lambda: rates(lambda o: S.LinearLR(o)),
    "exponential": lambda: rates(lambda o: S.ExponentialLR(o, gamma=0.97)),
    "polynomial": lambda: rates(lambda o: S.PolynomialLR(o, total_iters=70, power=1.7)),
    "cosine_100": lambda: rates(lambda o: S.CosineAnnealingLR(o, T_max=99, eta_min=0.003)),
    "restarts": lambda: rates(lambda o: S.CosineAnnealingWarmRestarts(o, T_0=11, eta_min=0.002)),
    "restarts_longer": lambda: rates(lambda o: S.CosineAnnealingWarmRestarts(o, T_0=6, T_mult=2)),
    "cyclic": lambda: rates(lambda o: S.CyclicLR(o, 0.01, 0.2, step_size_up=9, step_size_down=14)),
    "cyclic_triangular2": lambda: rates(lambda o: S.CyclicLR(o, 0.01, 0.2, step_size_up=8, mode="triangular2")),
    "cyclic_exp_range": lambda: rates(lambda o: S.CyclicLR(
        o, 0.01, 0.2, step_size_up=10, step_size_down=5, mode="exp_range", gamma=0.98, base_momentum=0.7,
        max_momentum=0.95)),
    "cyclic_own": lambda: rates(lambda o: S.CyclicLR(
        o, 0.01, 0.2, step_size_up=10, scale_fn=lambda n: 1 / n, scale_mode="cycle", cycle_momentum=False)),
    "one_cycle_100": lambda: rates(lambda o: S.OneCycleLR(o, max_lr=0.4, total_steps=101, pct_start=0.2)),
    "plateau": lambda: rates(lambda o: S.ReduceLROnPlateau(o, factor=0.3, patience=3, cooldown=2, min_lr=1e-3),
                             metric=metric),
    "plateau_max": lambda: rates(lambda o: S.ReduceLROnPlateau(
        o, mode="max", factor=0.5, patience=4, threshold=0.05, threshold_mode="abs", eps=1e-4),
        metric=lambda n: -metric(n)),
    "chained": lambda: rates(lambda o: S.ChainedScheduler(
        [S.ConstantLR(o, factor=0.1, total_iters=20), S.ExponentialLR(o, gamma=0.98)])),
    "sequential": lambda: rates(lambda o: S.SequentialLR(
        o, [S.LinearLR(o, start_factor=0.1, total_iters=10), S.CosineAnnealingLR(o, T_max=40),
            S.ExponentialLR(o, gamma=0.9)], milestones=[10, 50])),
}


def clip_by(norm_type, dtype):
    torch.set_default_dtype(dtype)
    params = [start(k) for k in range(len(SHAPES))]
    for k, p in enumerate(params):
        p.grad = gradient(k, 3)
    norm = torch.nn.utils.clip_grad_norm_(params, 1.5, norm_type=norm_type).item()
    torch.set_default_dtype(torch.float32)
    return {"norm": norm, "scaled": flat([p.grad for p in params])}


def adaptive(dtype, clip_factor=0.3, eps=1e-3):
    """Brock et al. 2021, equation 3, with the units of their code: rows along the first axis."""
    torch.set_default_dtype(dtype)
    out = []
    for k in range(len(SHAPES)):
        p, g = start(k).detach(), gradient(k, 3)
        g = g * (0.05 if k == 1 else 1.0)  # some units stay within their limit
        axes = tuple(range(1, g.dim())) if g.dim() > 1 else None
        norm = lambda x: torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        most = norm(p).clamp(min=eps) * clip_factor
        out.append(torch.where(norm(g) > most, g * (most / norm(g).clamp(min=1e-6)), g))
    torch.set_default_dtype(torch.float32)
    return flat(out)


def average(dtype, decay=0.9):
    """torch.optim.swa_utils, whose first update copies; a module that learns by SGD."""
    torch.set_default_dtype(dtype)
    module = torch.nn.ParameterList([start(k) for k in range(len(SHAPES))])
    mean = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))
    mean.update_parameters(module)
    opt = O.SGD(module.parameters(), lr=0.1)
    for step in range(STEPS):
        for k, p in enumerate(module):
            p.grad = gradient(k, step)
        opt.step()
        mean.update_parameters(module)
    torch.set_default_dtype(torch.float32)
    return flat(mean.module.parameters())


def runs():
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    each = lambda fn, *args: {d: fn(*args, t) for d, t in dtypes.items()}
    return {
        "trajectories": {name: each(trajectory, make) for name, make in TRAJECTORIES.items()},
        "clip_norms": {str(p): each(clip_by, p) for p in (0.5, 1.0, 2.0, 3.0, math.inf)},
        "clip_adaptive": each(adaptive),
        "average": each(average),
    }

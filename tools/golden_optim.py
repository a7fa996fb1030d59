#!/usr/bin/env python3
"""Golden numbers of optimizers, schedules and clipping, from PyTorch (2.11 or later), for tests/optim_golden_test.cpp and
tests/schedule_test.cpp.

    golden_optim.py [FILE]      writes tests/golden/optim.json, or FILE

Parameters and gradients are small fractions made by integer formulas, which the tests repeat, so every start is exact."""
import json
import pathlib
import re
import sys

import torch

import golden_optim_runs

SHAPES = [(5,), (2, 3), (19,)]
STEPS = 10
KEPT = (1, 2, 10)  # steps after which the parameters are written down


def parameter(k, dtype):
    n = torch.Size(SHAPES[k]).numel()
    values = [((i * 29 + k * 13) % 64 - 32) / 32 for i in range(n)]
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype).reshape(SHAPES[k]))


def gradient(k, step, dtype):
    n = torch.Size(SHAPES[k]).numel()
    values = [((i * 37 + step * 101 + k * 17) % 64 - 32) / 16 for i in range(n)]
    return torch.tensor(values, dtype=dtype).reshape(SHAPES[k])


def flat(params):
    return [x for p in params for x in p.detach().double().flatten().tolist()]


def run(make, dtype, absent=lambda k, step: False, schedule=None):
    params = [parameter(k, dtype) for k in range(len(SHAPES))]
    opt = make(params)
    sched = schedule(opt) if schedule else None
    kept = {}
    for step in range(STEPS):
        for k, p in enumerate(params):
            p.grad = None if absent(k, step) else gradient(k, step, dtype)
        opt.step()
        if sched:
            sched.step()
        if step + 1 in KEPT:
            kept[str(step + 1)] = flat(params)
    return kept


O = torch.optim
CASES = {
    "sgd": dict(make=lambda p: O.SGD(p, lr=0.1)),
    "sgd_decay": dict(make=lambda p: O.SGD(p, lr=0.1, weight_decay=0.05)),
    "sgd_momentum": dict(make=lambda p: O.SGD(p, lr=0.05, momentum=0.9)),
    "sgd_dampening": dict(make=lambda p: O.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.01)),
    "sgd_nesterov": dict(make=lambda p: O.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)),
    "adamw": dict(make=lambda p: O.AdamW(p, lr=1e-2)),
    "adamw_options": dict(make=lambda p: O.AdamW(p, lr=3e-2, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.2)),
    "adamw_small_beta": dict(make=lambda p: O.AdamW(p, lr=1e-2, betas=(0.3, 0.9))),
    "adam": dict(make=lambda p: O.Adam(p, lr=1e-2)),
    "adam_l2": dict(make=lambda p: O.Adam(p, lr=1e-2, weight_decay=0.1)),
    "adamw_groups": dict(make=lambda p: O.AdamW([dict(params=p[:1], lr=0.05, weight_decay=0.0),
                                                 dict(params=p[1:], lr=0.01, weight_decay=0.1)])),
    "sgd_groups": dict(make=lambda p: O.SGD([dict(params=p[:2], lr=0.05, momentum=0.9), dict(params=p[2:], lr=0.1)])),
    "adamw_absent": dict(make=lambda p: O.AdamW(p, lr=1e-2), absent=lambda k, step: k == 1 and step % 3 != 1),
    "sgd_absent": dict(make=lambda p: O.SGD(p, lr=0.05, momentum=0.9), absent=lambda k, step: k == 1 and step < 4),
    "adamw_one_cycle": dict(make=lambda p: O.AdamW(p, lr=1.0), schedule=lambda opt: O.lr_scheduler.OneCycleLR(
        opt, max_lr=0.05, total_steps=STEPS + 1, cycle_momentum=True)),
    "sgd_one_cycle": dict(make=lambda p: O.SGD(p, lr=1.0, momentum=0.9), schedule=lambda opt: O.lr_scheduler.OneCycleLR(
        opt, max_lr=0.05, total_steps=STEPS + 1, cycle_momentum=True)),
}


def rates(make, steps):
    opt = O.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    sched = make(opt)
    lr, momentum = [], []
    for _ in range(steps):
        lr.append(opt.param_groups[0]["lr"])
        momentum.append(opt.param_groups[0]["momentum"])
        opt.step()
        sched.step()
    return {"lr": lr, "momentum": momentum}


S = O.lr_scheduler
SCHEDULES = {
    "constant": lambda: rates(lambda o: S.ConstantLR(o, factor=1.0), 5),
    "cosine": lambda: rates(lambda o: S.CosineAnnealingLR(o, T_max=20), 21),
    "cosine_eta_min": lambda: rates(lambda o: S.CosineAnnealingLR(o, T_max=7, eta_min=0.01), 8),
    "one_cycle": lambda: rates(lambda o: S.OneCycleLR(o, max_lr=0.4, total_steps=30), 30),
    "one_cycle_linear": lambda: rates(lambda o: S.OneCycleLR(
        o, max_lr=0.2, total_steps=23, pct_start=0.45, anneal_strategy="linear", div_factor=10, final_div_factor=100,
        base_momentum=0.8, max_momentum=0.9), 23),
    "warmup_cosine": lambda: rates(lambda o: S.SequentialLR(o, [
        S.LinearLR(o, start_factor=0.1, total_iters=5), S.CosineAnnealingLR(o, T_max=15)], milestones=[5]), 20),
}


def clip(dtype, max_norm, max_value):
    out = {}
    params = [parameter(k, dtype) for k in range(len(SHAPES))]
    for k, p in enumerate(params):
        p.grad = gradient(k, 3, dtype)
    out["norm"] = torch.nn.utils.clip_grad_norm_(params, max_norm).item()
    out["scaled"] = flat([p.grad for p in params])
    for k, p in enumerate(params):
        p.grad = gradient(k, 3, dtype)
    torch.nn.utils.clip_grad_value_(params, max_value)
    out["clamped"] = flat([p.grad for p in params])
    return out


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests/golden/optim.json"
    torch.set_num_threads(1)
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    golden = {
        "torch": torch.__version__,
        "optimizers": {name: {d: run(dtype=t, **case) for d, t in dtypes.items()} for name, case in CASES.items()},
        "schedules": {name: make() for name, make in {**SCHEDULES, **golden_optim_runs.SCHEDULES}.items()},
        "clip": {d: {"small": clip(t, 1.5, 0.5), "large": clip(t, 1e4, 100.0)} for d, t in dtypes.items()},
        **golden_optim_runs.runs(),
    }
    text = json.dumps(golden, indent=1)
    path.write_text(re.sub(r"\[[^\[\]]*\]", lambda m: " ".join(m.group().split()), text) + "\n")  # a list a line


if __name__ == "__main__":
    main()

"""Times the memory-bound kernels of FLAME and PyTorch on one GPU in turn, beside a plain copy in the same run, and writes
bench/results/kernels.json: GB/s by ideal bytes (each input once, each output once).

usage: bench/kernels.py [--build build] [--rounds 2] [--out FILE] [WORKLOAD...] (run by a Python that has torch)
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))


def torch_workloads():
    """name -> a function that makes the inputs and returns the call; shapes as in kernels_bench.cpp."""
    import torch
    import torch.nn.functional as F
    bf16, f32 = torch.bfloat16, torch.float32
    normal = lambda *s, dtype=bf16: torch.randn(*s, device="cuda", dtype=dtype)
    side, rows, columns = 16384, 32768, 4096

    def backward_of(fn, *inputs):
        for x in inputs:
            x.requires_grad_()
        y = fn(*inputs)
        g = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)

    def square(fn):
        def make():
            x = normal(side, side, dtype=f32)
            return lambda: fn(x)
        return make

    def copy():
        x = normal(side, side, dtype=f32)
        y = torch.empty_like(x)
        return lambda: y.copy_(x)

    def chain():
        x, b = normal(side, side, dtype=f32), normal(side, dtype=f32)
        return lambda: F.gelu(x + b) * 0.5 + x

    def matrix(fn, *weights):
        def make():
            with torch.no_grad():
                x, w = normal(rows, columns), [normal(columns) for _ in weights]
                return torch.no_grad()(lambda: fn(x, *w))
        return make

    def matrix_backward(fn, *weights):
        return lambda: backward_of(fn, normal(rows, columns), *[normal(columns) for _ in weights])

    layer = lambda x, w, b: F.layer_norm(x, (columns,), w, b)
    rms = lambda x, w: F.rms_norm(x, (columns,), w)
    softmax, log_softmax = lambda x: torch.softmax(x, -1), lambda x: torch.log_softmax(x, -1)
    group = lambda x, w, b: F.group_norm(x, 32, w, b)
    batch = lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True)

    def channels(fn, shape, back):
        def make():
            x, w, b = normal(*shape), normal(shape[1]), normal(shape[1])
            return backward_of(fn, x, w, b) if back else (lambda: fn(x, w, b))
        return make

    def cross_entropy():
        logits, target = normal(16384, 50304).requires_grad_(), torch.randint(0, 50257, (16384,), device="cuda")
        return lambda: torch.autograd.grad(F.cross_entropy(logits, target), logits)

    def parameters():
        p = [normal(1240000, dtype=f32).requires_grad_() for _ in range(100)]
        for q in p:
            q.grad = torch.randn_like(q)
        return p

    def clip():
        p = parameters()
        return lambda: torch.nn.utils.clip_grad_norm_(p, 1.0)

    def embedding(back):
        def make():
            w, i = normal(50304, 768), torch.randint(0, 50257, (32768,), device="cuda")
            return backward_of(lambda w: F.embedding(i, w), w) if back else (lambda: F.embedding(i, w))
        return make

    def gather():
        x, i = normal(side, columns, dtype=f32), torch.randint(0, columns, (side, columns), device="cuda")
        return lambda: torch.gather(x, 1, i)

    def cat():
        x, y = normal(side, columns, dtype=f32), normal(side, columns, dtype=f32)
        return lambda: torch.cat((x, y), 1)

    pictures, images = (16, 320, 128, 128), (64, 256, 56, 56)
    return {
        "copy": copy, "pointwise_copy": square(lambda x: x + 1), "sum_all": square(lambda x: x.sum()),
        "sum_dim0": square(lambda x: x.sum(0)), "sum_dim1": square(lambda x: x.sum(1)),
        "transpose": square(lambda x: x.t().contiguous()), "gelu_chain": chain,
        "layer_norm_forward": matrix(layer, 1, 1), "layer_norm_backward": matrix_backward(layer, 1, 1),
        "rms_norm_forward": matrix(rms, 1), "rms_norm_backward": matrix_backward(rms, 1),
        "softmax_forward": matrix(softmax), "softmax_backward": matrix_backward(softmax),
        "log_softmax_forward": matrix(log_softmax), "log_softmax_backward": matrix_backward(log_softmax),
        "group_norm_forward": channels(group, pictures, False), "group_norm_backward": channels(group, pictures, True),
        "batch_norm_forward": channels(batch, images, False), "batch_norm_backward": channels(batch, images, True),
        "cross_entropy": cross_entropy, "adamw": lambda: torch.optim.AdamW(parameters(), fused=True).step,
        "clip_grad_norm": clip, "embedding_forward": embedding(False), "embedding_backward": embedding(True),
        "gather": gather, "cat": cat,
    }


def torch_lines(wanted):
    import torch
    torch.manual_seed(0)

    def batch_of(fn, calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    for name, make in torch_workloads().items():
        if wanted and name not in wanted:
            continue
        fn = make()
        batch_of(fn, 2)
        calls = int(min(max(0.05 / batch_of(fn, 3), 2), 200))
        print(json.dumps({"workload": name, "microseconds": [1e6 * batch_of(fn, calls) for _ in range(5)]}), flush=True)
        del fn
        torch.cuda.empty_cache()
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("workloads", nargs="*")
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--out", help="write the rows there as JSON, not a record")
    p.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch:
        return torch_lines(a.workloads)
    times, moved, machine = {}, {}, {}
    commands = {"flame": [str(pathlib.Path(a.build) / "bench/kernels_bench"), *a.workloads],
                "torch": [sys.executable, __file__, "--torch", *a.workloads]}
    for _ in range(a.rounds):
        for system, command in commands.items():
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            for line in map(json.loads, out.splitlines()):
                if "workload" not in line:
                    machine = line
                    continue
                times.setdefault((line["workload"], system), []).extend(line["microseconds"])
                moved[line["workload"]] = line.get("bytes", moved.get(line["workload"]))
    import record
    rows = [record.row(name, "bandwidth", "GB/s", [round(moved[name] / t / 1e3, 1) for t in took], system)
            for (name, system), took in times.items() if name in moved]
    best = {(r["workload"], r["system"]): r["median"] for r in rows}
    roof = max([v for (name, _), v in best.items() if name == "copy"], default=0)
    print(f"{'GB/s':22} {'FLAME':>8} {'PyTorch':>8} {'floor':>8}   of a copy ({roof:.0f})")
    for name in dict.fromkeys(name for name, _ in best):
        own, peer = best.get((name, "flame"), 0), best.get((name, "torch"), 0)
        floor = max(peer, 0.6 * roof)
        print(f"{name:22} {own:8.0f} {peer:8.0f} {floor:8.0f}   {own / roof if roof else 0:5.2f}"
              f"{'' if own >= floor else '  below the floor'}")
    if a.out:
        pathlib.Path(a.out).write_text(json.dumps({"machine": machine, "rows": rows}) + "\n")
    else:
        versions = {k: machine[k] for k in ("cuda", "torch") if k in machine}
        record.write("kernels", rows, len(os.sched_getaffinity(0)), versions, machine.get("device"))


if __name__ == "__main__":
    main()

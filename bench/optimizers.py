"""Times optimizer steps of FLAME and PyTorch in turn, 10 M float32 parameters in 76 tensors, and writes
bench/results/optimizers.json.

usage: bench/optimizers.py [--build build] [--runs 5] [--threads 2] (run by a Python that has torch for the peers' rows)
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import record  # noqa: E402

NAMES = ["adamw", "sgd", "lion", "adafactor"]
PEERS = {"adamw": ["fused", "foreach"], "sgd": ["fused", "foreach"], "lion": ["foreach"], "adafactor": ["foreach"]}


def torch_seconds(name, kind, threads):
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(s)) for _ in range(38) for s in ((512, 512), (512,))]
    grads = [torch.randn_like(p) for p in params]
    for p, g in zip(params, grads):
        p.grad = g
    moments = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def lion(lr=1e-4, b1=0.9, b2=0.99, decay=0.01):  # PyTorch has none: the same formulas over all tensors at once
        torch._foreach_mul_(params, 1 - lr * decay)
        update = torch._foreach_mul(moments, b1)
        torch._foreach_add_(update, grads, alpha=1 - b1)
        torch._foreach_sign_(update)
        torch._foreach_add_(params, update, alpha=-lr)
        torch._foreach_lerp_(moments, grads, 1 - b2)

    flag = {kind: True}
    step = {"adamw": lambda: torch.optim.AdamW(params, **flag).step,
            "sgd": lambda: torch.optim.SGD(params, lr=1e-3, momentum=0.9, **flag).step,
            "lion": lambda: lion, "adafactor": lambda: torch.optim.Adafactor(params, **flag).step}[name]()
    for _ in range(5):
        step()
    times, begin = [], time.perf_counter()
    while len(times) < 50 or time.perf_counter() - begin < 3:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--torch", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch:
        print(json.dumps({"seconds": torch_seconds(*a.torch, a.threads)}))
        return
    has_torch = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0
    values, moved = {}, {}

    def run(key, *command):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result = json.loads(out.splitlines()[-1])
        values.setdefault(key, []).append(result["seconds"] * 1e3)
        if "bytes" in result:
            moved[key[0]] = result["bytes"]

    for _ in range(a.runs):
        for name in ["copy"] + NAMES:
            run((name, "flame"), str(pathlib.Path(a.build) / "bench/optim_bench"), name, "--threads", str(a.threads))
            for kind in PEERS.get(name, []) if has_torch else []:
                run((name, f"torch_{kind}"), sys.executable, __file__, "--threads", str(a.threads), "--torch", name, kind)
    rows = []
    for (name, system), times in values.items():
        rows.append(record.row(name, "step_time", "ms", [round(t, 3) for t in times], system))
        rows.append(record.row(name, "bandwidth", "GB/s", [round(moved[name] / t / 1e6, 2) for t in times], system))
        print(f"{name:10} {system:14} {rows[-2]['median']:8.2f} ms  {rows[-1]['median']:6.1f} GB/s")
    versions = {}
    if has_torch:
        versions["torch"] = record.output_of(sys.executable, "-c", "import torch; print(torch.__version__)")
    record.write("optimizers", rows, a.threads, versions)


if __name__ == "__main__":
    main()

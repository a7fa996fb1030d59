"""Times FLAME and PyTorch in turn on the same two cores and writes bench/results/cpu.json.

usage: bench/cpu.py [--build build] [--runs 5] [--workloads a,b] (run by a Python that has torch for the peers' rows)
"""
import argparse, datetime, json, os, pathlib, platform, subprocess, sys, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SINGLE = ["record_op", "cached_flush", "chain_fused", "chain_op_by_op", "copy"]
PAIRED = {"mlp": "mlp", "mlp_recorded": "mlp", "cnn": "cnn", "cnn_recorded": "cnn", "transformer": "transformer",
          "transformer_recorded": "transformer", "tiny": "tiny", "tiny_recorded": "tiny"}


def torch_step(name, threads):
    """Microseconds a training step of the peers' definition, AdamW fused, the same batch each step."""
    import torch, torch.nn as nn, torch.nn.functional as F
    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(256), nn.LayerNorm(256)
            self.qkv, self.out, self.up, self.down = nn.Linear(256, 768), nn.Linear(256, 256), nn.Linear(256, 1024), nn.Linear(1024, 256)

        def forward(self, x):
            q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, 8, 32).permute(2, 0, 3, 1, 4)
            y = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))
            return y + self.down(F.gelu(self.up(self.norm2(y))))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(1000, 256), nn.Parameter(torch.randn(128, 256) * 0.02)
            self.blocks, self.norm, self.head = nn.Sequential(*(Block() for _ in range(6))), nn.LayerNorm(256), nn.Linear(256, 1000)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.tokens(x) + self.positions))).flatten(0, 1)

    nets = {
        "cnn": lambda: nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1),
                                     nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)),
        "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)),
        "transformer": Transformer,
        "tiny": lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)),
    }
    net = nets[name]()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    if name == "tiny":
        x, y, loss_of = torch.randn(1, 32), torch.randn(1, 1), F.mse_loss
    elif name == "transformer":
        x, y, loss_of = torch.randint(0, 1000, (16, 128)), torch.randint(0, 1000, (16 * 128,)), F.cross_entropy
    else:
        x, y, loss_of = torch.randn(128, 1, 28, 28), torch.randint(0, 10, (128,)), F.cross_entropy
        x = x.to(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)

    def step():
        loss = loss_of(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)

    for _ in range(1000 if name == "tiny" else 4 if name == "transformer" else 10):
        step()
    calls, start = 0, time.perf_counter()
    while calls < 10 or time.perf_counter() - start < 3:
        step()
        calls += 1
    return (time.perf_counter() - start) / calls * 1e6


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def has_torch():
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workloads", default="")
    p.add_argument("--torch-step", default="", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch_step:
        print(json.dumps({"value": torch_step(a.torch_step, a.threads)}))
        return
    cores = sorted(os.sched_getaffinity(0))[: a.threads]
    os.sched_setaffinity(0, cores)
    binary = pathlib.Path(a.build) / "bench" / "cpu_bench"
    wanted = [w for w in a.workloads.split(",") if w != "ops"] if a.workloads else SINGLE + list(PAIRED)
    torch_there = has_torch()
    values = {}

    def flame(w, threads):
        out = subprocess.run([binary, w, "--threads", str(threads)], capture_output=True, text=True, check=True).stdout
        values.setdefault((w, "flame", threads), []).append(json.loads(out)["value"])

    def peer(w):
        out = subprocess.run([sys.executable, __file__, "--torch-step", PAIRED[w], "--threads", str(a.threads)],
                             capture_output=True, text=True, check=True).stdout
        values.setdefault((w, "torch_eager", a.threads), []).append(json.loads(out.splitlines()[-1])["value"])

    def all_ops(system, command):
        for line in subprocess.run([*command, "--threads", str(a.threads)], capture_output=True, text=True, check=True).stdout.splitlines():
            row = json.loads(line)
            values.setdefault(("op " + row["workload"], system, a.threads), []).append(row["value"])

    for _ in range(a.runs):
        if not a.workloads or "ops" in a.workloads.split(","):
            all_ops("flame", [pathlib.Path(a.build) / "bench" / "ops_bench"])
            if torch_there:
                all_ops("torch_eager", [sys.executable, ROOT / "bench" / "torch_ops.py"])
        for w in wanted:
            flame(w, 1 if w in SINGLE or w.startswith("tiny") else a.threads)
            if w in PAIRED and torch_there:
                peer(w)
    rows = []
    for (w, system, threads), v in values.items():
        v.sort()
        rows.append({"workload": w, "system": system, "metric": "step_time", "unit": "us", "threads": threads,
                     "median": round(v[len(v) // 2], 3), "min": round(v[0], 3), "max": round(v[-1], 3), "n": len(v)})
    versions = {"onednn": "3.2"}
    if torch_there:
        versions["torch"] = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"],
                                           capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record = {"name": "cpu", "date": datetime.date.today().isoformat(), "commit": commit, "device": cpu_name(),
              "threads": a.threads, "versions": versions, "rows": rows}
    out = ROOT / "bench" / "results" / "cpu.json"
    out.parent.mkdir(exist_ok=True)
    if a.workloads == "":
        out.write_text(json.dumps(record, indent=1) + "\n")
    by = {(r["workload"], r["system"]): r["median"] for r in rows}
    for r in rows:
        print(f'{r["workload"]:16} {r["system"]:12} {r["median"]:12.2f} us   [{r["min"]:.2f}, {r["max"]:.2f}]')
    ratios = {w: by[w, "flame"] / by[w, "torch_eager"] for w, system in by if system == "flame" and (w, "torch_eager") in by}
    for w, ratio in ratios.items():
        print(f"{w:24} flame / torch  {ratio:.3f}")
    slow = [w for w, ratio in ratios.items() if ratio > (1.25 if w.startswith("op ") else 1)]
    print(f"over 1.25 of PyTorch's time (a model: over 1): {', '.join(slow) or 'none'}")
    if ("chain_fused", "flame") in by and ("copy", "flame") in by:
        fused, copy, single = by["chain_fused", "flame"], by["copy", "flame"], by.get(("chain_op_by_op", "flame"), 0)
        print(f"chain: {3 * 256 / fused * 1e6 / 1024 / (2 * 256 / copy * 1e6 / 1024):.2f} of a copy's bandwidth, {single / fused:.2f}x op by op")


if __name__ == "__main__":
    main()

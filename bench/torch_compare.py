"""The training of bench/compare_bench.cpp in PyTorch, with the same flags and the same lines of input and output.
Systems: torch_eager, torch_compile, torch_compile_max (mode max-autotune-no-cudagraphs), and torch_eager_graph and
torch_compile_graph, which replay the whole step as a CUDA graph after copying the batch into its place.

usage: bench/torch_compare.py WORKLOAD --weights FILE [--system torch_eager] [--size full] [--data FILE] [--device cuda]
                              [--precision float32 | tf32 | bf16] [--max-norm 1] [--check FILE]
       bench/torch_compare.py WORKLOAD --export --weights FILE [--data FILE] [--size small] [--batches 8] [--seed 0]
       (initial weights as PyTorch draws them, and random batches)
       bench/torch_compare.py --machine cuda
Beside the lines of input of compare_bench: "ulp SEED" begins anew with each weight moved by one ulp, up or down at random, and
makes the first step.
"""
import argparse
import json
import mmap
import os
import subprocess
import sys
import time

START = time.perf_counter()
import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

IMPORTED = time.perf_counter() - START


def heads(x, h):
    b, t, c = x.shape
    return x.view(b, t, 3, h, c // 3 // h).permute(2, 0, 3, 1, 4)


class Block(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.h = h
        s.l1, s.qkv, s.o = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        s.l2, s.u, s.d = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(s, x):
        q, k, v = heads(s.qkv(s.l1(x)), s.h)
        x = x + s.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))
        return x + s.d(F.gelu(s.u(s.l2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(s, d=768, h=12, layers=12, vocabulary=50304, context=1024):
        super().__init__()
        s.te, s.pe = nn.Embedding(vocabulary, d), nn.Embedding(context, d)
        s.b = nn.ModuleList(Block(d, h) for _ in range(layers))
        s.ln, s.head = nn.LayerNorm(d), nn.Linear(d, vocabulary, bias=False)
        s.head.weight = s.te.weight
        nn.init.normal_(s.te.weight, std=0.02)

    def body(s, i, target):
        x = s.te(i) + s.pe(torch.arange(i.shape[1], device=i.device))
        for b in s.b:
            x = b(x)
        return x

    def logits(s, i, target):
        return s.head(s.ln(s.body(i, target)))

    def forward(s, i, target):
        return F.cross_entropy(s.logits(i, target).flatten(0, 1).float(), target.flatten())


class DiTBlock(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.h = h
        s.n1, s.n2 = nn.LayerNorm(d, elementwise_affine=False), nn.LayerNorm(d, elementwise_affine=False)
        s.qkv, s.o, s.u, s.d = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        s.ada = nn.Linear(d, 6 * d)

    def forward(s, x, c):
        a, b, g, a2, b2, g2 = s.ada(F.silu(c)).unsqueeze(1).chunk(6, -1)
        q, k, v = heads(s.qkv(s.n1(x) * (1 + b) + a), s.h)
        x = x + g * s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return x + g2 * s.d(F.gelu(s.u(s.n2(x) * (1 + b2) + a2), approximate="tanh"))


class DiT(nn.Module):
    def __init__(s, d=768, h=12, layers=12, patches=256, patch=16, classes=1001, times=256):
        super().__init__()
        s.pe, s.i = nn.Parameter(torch.randn(1, patches, d) * 0.02), nn.Linear(patch, d)
        s.t = nn.Sequential(nn.Linear(times, d), nn.SiLU(), nn.Linear(d, d))
        s.y = nn.Embedding(classes, d)
        s.b = nn.ModuleList(DiTBlock(d, h) for _ in range(layers))
        s.f, s.o = nn.LayerNorm(d), nn.Linear(d, patch)

    def body(s, x, times, y, target):
        c = s.t(times) + s.y(y)
        x = s.i(x) + s.pe
        for b in s.b:
            x = b(x, c)
        return x

    def logits(s, *batch):
        return s.o(s.f(s.body(*batch)))

    def forward(s, *batch):
        return F.mse_loss(s.logits(*batch).float(), batch[3])


class Bottleneck(nn.Module):
    """As torchvision's: the stride is in the 3 x 3 convolution."""

    def __init__(s, channels, width, stride):
        super().__init__()
        s.conv1, s.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        s.conv2, s.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        s.conv3, s.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        s.relu, s.downsample = nn.ReLU(inplace=True), None
        if stride != 1 or channels != 4 * width:
            s.downsample = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(s, x):
        y = s.relu(s.bn1(s.conv1(x)))
        y = s.bn3(s.conv3(s.relu(s.bn2(s.conv2(y)))))
        y += x if s.downsample is None else s.downsample(x)
        return s.relu(y)


class ResNet(nn.Module):
    def __init__(s, blocks=(3, 4, 6, 3), width=64, classes=1000):
        super().__init__()
        s.conv1, s.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        s.relu, s.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                layers.append(Bottleneck(channels, width << stage, 2 if stage and not i else 1))
                channels = 4 * (width << stage)
            s.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        s.stages, s.fc = len(blocks), nn.Linear(channels, classes)
        for m in s.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def body(s, x, label):
        x = s.maxpool(s.relu(s.bn1(s.conv1(x))))
        for stage in range(s.stages):
            x = getattr(s, f"layer{stage + 1}")(x)
        return x

    def logits(s, x, label):
        return s.fc(s.body(x, label).mean((2, 3)))

    def forward(s, x, label):
        return F.cross_entropy(s.logits(x, label), label)


class Small(nn.Module):
    def __init__(s, *layers):
        super().__init__()
        s.m = nn.Sequential(*layers)

    def body(s, x, label):
        return s.m[:-1](x)

    def logits(s, x, label):
        return s.m(x)

    def forward(s, x, label):
        return F.cross_entropy(s.m(x), label)


def cnn():
    return Small(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                 nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp():
    return Small(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Task:
    """A model, its batches (a shape, and classes or None for normal numbers) and its precision, in full or small."""

    def __init__(self, name, small):
        self.max_norm, self.precision, self.unit = 0.0, "bf16", "images/s"
        if name == "gpt2_124m":
            self.model = (lambda: GPT(32, 2, 2, 97, 16)) if small else GPT
            context, classes = (16, 97) if small else (1024, 50257)
            self.batch, self.sources = 4 if small else 32, [((context,), classes)] * 2
            self.items, self.unit, self.max_norm = self.batch * context, "tokens/s", 1.0
        elif name == "dit_b2":
            self.model = (lambda: DiT(32, 2, 2, 16, 16, 11, 32)) if small else DiT
            patches, times, classes = ((16, 16), 32, 10) if small else ((256, 16), 256, 1000)
            self.batch = self.items = 4 if small else 128
            self.sources = [(patches, None), ((times,), None), ((), classes), (patches, None)]
        else:
            small_net = (lambda: ResNet((1, 2, 1, 1), 8, 10), 8, (3, 64, 64), 10)
            self.model, self.batch, picture, classes = {
                "resnet50": small_net if small else (ResNet, 256, (3, 224, 224), 1000),
                "cnn": (cnn, 8 if small else 128, (1, 28, 28), 10), "mlp": (mlp, 8 if small else 128, (1, 28, 28), 10)}[name]
            self.items, self.sources = self.batch, [(picture, None), ((), classes)]
            if name != "resnet50":
                self.precision = "tf32"
        self.channels_last = name == "resnet50"

    def drawn(self, batches, device):
        n = self.batch * batches
        return [torch.randn(n, *shape, device=device) if classes is None else torch.randint(0, classes, (n, *shape), device=device)
                for shape, classes in self.sources]


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}


def load(path):
    """The tensors of a safetensors file, over its mapped bytes."""
    with open(path, "rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    size = int.from_bytes(raw[:8], "little")
    header = {name: t for name, t in json.loads(raw[8:8 + size]).items() if name != "__metadata__"}
    return {name: torch.frombuffer(raw, dtype=DTYPES[t["dtype"]], offset=8 + size + t["data_offsets"][0],
                                   count=(t["data_offsets"][1] - t["data_offsets"][0]) // DTYPES[t["dtype"]].itemsize)
            .view(t["shape"]) for name, t in header.items()}


def save(path, tensors):
    header, at, data = {}, 0, []
    for name, t in tensors.items():
        data.append(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        dtype = next(word for word, d in DTYPES.items() if d == t.dtype)
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(data[-1])]}
        at += len(data[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)


def state_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}  # shared ones once


def export(task, a):
    torch.manual_seed(a.seed)
    save(a.weights, state_of(task.model()))
    if a.data:
        save(a.data, {str(i): t for i, t in enumerate(task.drawn(a.batches, "cpu"))})


class Training:
    def __init__(self, task, a):
        self.task, self.a, self.count, self.graph = task, a, 0, None
        self.precision = a.precision or task.precision
        self.max_norm = task.max_norm if a.max_norm is None else a.max_norm
        allowed = self.precision != "float32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        with torch.device(a.device):
            self.model = task.model()
        with torch.no_grad():
            own, given = state_of(self.model), load(a.weights)
            if own.keys() != given.keys():
                raise SystemExit(f"weights for another model: {sorted(own.keys() ^ given.keys())[:5]}")
            for name, t in own.items():
                t.copy_(given[name])
        self.data = [t.to(a.device) for t in load(a.data).values()] if a.data else task.drawn(8, a.device)
        if task.channels_last and a.device != "cpu":  # there it rounds twice as much
            self.model.to(memory_format=torch.channels_last)
            self.data[0] = self.data[0].to(memory_format=torch.channels_last)
        graph = a.system.endswith("_graph")
        mode = {"torch_compile": None, "torch_compile_graph": None, "torch_compile_max": "max-autotune-no-cudagraphs"}
        self.called = torch.compile(self.model, mode=mode[a.system]) if a.system in mode else self.model
        fused = None if torch.device(a.device).type == "cpu" else True
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=fused, capturable=graph)
        self.step = self.replay if graph else self.train

    def move_weights(self, seed):
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.model.parameters():
                to = torch.where(torch.rand(p.shape, generator=draw) < 0.5, torch.inf, -torch.inf).to(p.device)
                p.copy_(torch.where(p == 0, p, torch.nextafter(p, to)))

    def autocast(self):
        return torch.autocast(torch.device(self.a.device).type, torch.bfloat16, enabled=self.precision == "bf16")

    def batch(self, i):
        n = self.task.batch
        at = i % (self.data[0].shape[0] // n) * n
        return [t[at:at + n] for t in self.data]

    def update(self, batch):
        with self.autocast():
            loss = self.called(*batch)
        loss.backward()
        if self.max_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def train(self):
        self.count += 1
        return self.update(self.batch(self.count - 1))

    def replay(self):
        """Five steps on a stream of their own, then the graph of one, whose batch is copied into its place."""
        self.count += 1
        if self.graph is None:
            self.place = [t.clone() for t in self.batch(self.count - 1)]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                loss = self.update(self.place)
            torch.cuda.current_stream().wait_stream(stream)
            if self.count == 5:
                torch.cuda.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.loss = self.update(self.place)
            return loss
        for place, t in zip(self.place, self.batch(self.count - 1)):
            place.copy_(t)
        self.graph.replay()
        return self.loss

    def check(self, path):
        batch = self.batch(0)
        with self.autocast():
            with torch.no_grad():
                out = {"logits": self.model.logits(*batch)[:1]}
            loss = self.model(*batch)
        loss.backward()
        out["loss"] = loss
        out |= {f"gradient.{name}": p.grad.clone() for name, p in self.model.named_parameters()}
        if self.max_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        save(path, out | {f"after.{name}": p for name, p in self.model.named_parameters()})

    def about(self):
        peak = torch.cuda.max_memory_allocated() if self.a.device != "cpu" else 0
        names = lambda tensors: sorted({str(t.dtype)[6:] for t in tensors})
        with self.autocast():
            self.model(*self.batch(0)).backward()
            with torch.no_grad():
                body, logits = self.model.body(*self.batch(0)), self.model.logits(*self.batch(0))
        gradients = names(p.grad for p in self.model.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        if self.a.device != "cpu":
            torch.cuda.empty_cache()
        moments = names(t for s in self.optimizer.state.values() for name, t in s.items() if name != "step")
        return {"peak_memory": peak, "precision": self.precision, "dtypes": {
            "weights": names(self.model.parameters()), "gradients": gradients, "moments": moments,
            "residual": str(body.dtype)[6:], "logits": str(logits.dtype)[6:]}}

    def wait(self):
        if self.a.device != "cpu":
            torch.cuda.synchronize()

    def steps(self, count):
        seconds, losses = [], []
        for _ in range(count):
            start = time.perf_counter()
            losses.append(self.step().item())
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "losses": losses}

    def timed(self, least, least_steps):
        def run(count):
            self.wait()
            start = time.perf_counter()
            for _ in range(count):
                self.step()
            self.wait()
            return time.perf_counter() - start
        run(3 if self.graph or self.step == self.train else 6)
        count = max(least_steps, int(1.1 * least / (run(10) / 10)) + 1)
        seconds = run(count)
        if self.a.device != "cpu":
            torch.cuda.empty_cache()
        return {"seconds": seconds, "steps": count}


def machine(device):
    about = {"device": "CPU", "threads": len(os.sched_getaffinity(0)), "versions": {"torch": torch.__version__}}
    if device != "cpu":
        version = torch.backends.cudnn.version() or 0
        driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
        about["device"] = torch.cuda.get_device_name()
        about["versions"] |= {"cuda": torch.version.cuda, "driver": (driver.stdout.splitlines() or ["?"])[0],
                              "cudnn": f"{version // 10000}.{version // 100 % 100}.{version % 100}"}
    print(json.dumps(about))


def main():
    if sys.argv[1] == "--machine":
        return machine(sys.argv[2])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("workload")
    p.add_argument("--system", default="torch_eager", choices=["torch_eager", "torch_eager_graph", "torch_compile",
                                                               "torch_compile_max", "torch_compile_graph"])
    p.add_argument("--size", default="full", choices=["full", "small"])
    p.add_argument("--weights", required=True)
    p.add_argument("--data")
    p.add_argument("--device", default="cuda")
    p.add_argument("--precision", choices=["float32", "tf32", "bf16"])
    p.add_argument("--max-norm", type=float)
    p.add_argument("--check")
    p.add_argument("--export", action="store_true")
    p.add_argument("--batches", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    task = Task(a.workload, a.size == "small")
    if a.export:
        return export(task, a)
    if a.device == "cpu":
        torch.set_num_threads(2)
    training = Training(task, a)
    if a.check:
        return training.check(a.check)
    say = lambda answer: print(json.dumps(answer), flush=True)
    loss = training.step().item()
    say({"loss": loss, "since_main": time.perf_counter() - START, "imports": IMPORTED, "items": task.items, "unit": task.unit})
    for line in sys.stdin:
        what, *n = line.split()
        if what == "ulp":
            training = Training(task, a)
            training.move_weights(int(n[0]))
            say({"loss": training.step().item()})
            continue
        say({"steps": lambda: training.steps(int(n[0])), "time": lambda: training.timed(float(n[0]), int(n[1])),
             "about": training.about}[what]())


if __name__ == "__main__":
    main()

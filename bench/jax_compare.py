"""The training of bench/compare_bench.cpp in JAX (flax, optax), for the small nets, with the same flags and lines of input and output.
Systems: jax_jit, one compiled step a call, and jax_scan, 200 steps a call, of which all but the first step's figures are means.

usage: bench/jax_compare.py cnn | mlp --weights FILE [--system jax_jit] [--size full] [--data FILE] [--device cuda]
"""
import argparse
import json
import os
import sys
import time

START = time.perf_counter()
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402
import optax  # noqa: E402
from flax import linen as nn  # noqa: E402

IMPORTED = time.perf_counter() - START
LENGTH, BATCHES = 200, 8


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in (256, 256):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for channels in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def load(path):
    with open(path, "rb") as file:
        raw = file.read()
    size = int.from_bytes(raw[:8], "little")
    kinds = {"F32": numpy.float32, "I64": numpy.int64}
    return {name: numpy.frombuffer(raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]], kinds[t["dtype"]])
            .reshape(t["shape"]) for name, t in json.loads(raw[8:8 + size]).items() if name != "__metadata__"}


def parameters(workload, weights):
    """PyTorch's weights: [out, in] is [in, out] here, filters are height, width, in, out, and channels come last."""
    def layer(name, kernel):
        return {"kernel": kernel(weights[f"{name}.weight"]), "bias": weights[f"{name}.bias"]}
    turned = numpy.transpose
    if workload == "mlp":
        return {"params": {f"Dense_{i}": layer(f"m.{n}", turned) for i, n in enumerate((1, 3, 5))}}
    filters = lambda w: turned(w, (2, 3, 1, 0))
    flat = lambda w: turned(w.reshape(128, 64, 7, 7), (2, 3, 1, 0)).reshape(3136, 128)
    return {"params": {"Conv_0": layer("m.0", filters), "Conv_1": layer("m.3", filters), "Dense_0": layer("m.7", flat),
                       "Dense_1": layer("m.9", turned)}}


class Training:
    def __init__(self, a):
        n, key = 8 if a.size == "small" else 128, jax.random.PRNGKey(0)
        if a.data:
            x, y = (jnp.asarray(t) for t in load(a.data).values())
            x = x.transpose(0, 2, 3, 1)
        else:
            x, y = jax.random.normal(key, (n * BATCHES, 28, 28, 1)), jax.random.randint(key, (n * BATCHES,), 0, 10)
        self.all = x.reshape(-1, n, 28, 28, 1), y.reshape(-1, n).astype(jnp.int32)
        self.batches = [(jnp.array(x), jnp.array(y)) for x, y in zip(*self.all)]
        self.net, self.optimizer = {"mlp": MLP, "cnn": CNN}[a.workload](), optax.adamw(1e-4, weight_decay=1e-2)
        p = jax.tree.map(jnp.asarray, parameters(a.workload, load(a.weights)))
        self.state, self.count, self.scans = (p, self.optimizer.init(p)), 0, a.system == "jax_scan"
        self.one = jax.jit(self.update, donate_argnums=0)
        self.many = jax.jit(self.updates, donate_argnums=0)
        self.items = n

    def update(self, state, x, y):
        p, s = state
        def loss_of(p):
            return optax.softmax_cross_entropy_with_integer_labels(self.net.apply(p, x), y).mean()
        loss, g = jax.value_and_grad(loss_of)(p)
        u, s = self.optimizer.update(g, s, p)
        return (optax.apply_updates(p, u), s), loss

    def updates(self, state, all, first):
        def body(state, i):
            x, y = (jax.lax.dynamic_index_in_dim(t, i % len(self.batches), keepdims=False) for t in all)
            return self.update(state, x, y)
        return jax.lax.scan(body, state, first + jnp.arange(LENGTH))

    def call(self):
        """One step, or LENGTH of them: their losses, not waited for."""
        at = self.count % len(self.batches)
        if self.scans:
            self.state, losses = self.many(self.state, self.all, at)
            self.count += LENGTH
        else:
            self.state, losses = self.one(self.state, *self.batches[at])
            self.count += 1
        return losses

    def steps(self, count):
        each, seconds, losses = LENGTH if self.scans else 1, [], []
        for _ in range(-(-count // each)):
            start = time.perf_counter()
            losses += numpy.atleast_1d(numpy.asarray(self.call())).tolist()
            seconds += [(time.perf_counter() - start) / each] * each
        return {"seconds": seconds[:count], "losses": losses[:count]}

    def timed(self, least, least_steps):
        def run(calls):
            jax.block_until_ready(self.state)
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            jax.block_until_ready(self.state)
            return time.perf_counter() - start
        each = LENGTH if self.scans else 1
        trial = -(-10 // each)
        run(trial)
        calls = max(-(-least_steps // each), int(1.1 * least / (run(trial) / trial)) + 1)
        return {"seconds": run(calls), "steps": calls * each}

    def about(self):
        stats = jax.devices()[0].memory_stats() or {}
        names = lambda tree: sorted({str(t.dtype) for t in jax.tree.leaves(tree) if t.ndim})
        logits = self.net.apply(self.state[0], self.batches[0][0])
        return {"peak_memory": stats.get("peak_bytes_in_use", 0), "precision": "tf32", "dtypes": {
            "weights": names(self.state[0]), "gradients": names(self.state[0]), "moments": names(self.state[1]),
            "residual": str(logits.dtype), "logits": str(logits.dtype)}}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("workload", choices=["cnn", "mlp"])
    p.add_argument("--system", default="jax_jit", choices=["jax_jit", "jax_scan"])
    p.add_argument("--size", default="full", choices=["full", "small"])
    p.add_argument("--weights", required=True)
    p.add_argument("--data")
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    jax.config.update("jax_platforms", "cpu" if a.device == "cpu" else "cuda")
    training = Training(a)
    say = lambda answer: print(json.dumps(answer), flush=True)
    losses = numpy.atleast_1d(numpy.asarray(training.call()))
    say({"loss": float(losses[0]), "since_main": time.perf_counter() - START, "imports": IMPORTED, "items": training.items,
         "unit": "images/s"})
    for line in sys.stdin:
        what, *n = line.split()
        say({"steps": lambda: training.steps(int(n[0])), "time": lambda: training.timed(float(n[0]), int(n[1])),
             "about": training.about}[what]())


if __name__ == "__main__":
    main()

"""The workloads of bench/kernels_bench.cpp in PyTorch on a GPU, timed on request as there; the first line says on what."""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from torch_ops import gradients

bf16, f32 = torch.bfloat16, torch.float32
side, rows, columns, vocabulary = 16384, 32768, 4096, 50304
pictures, images, frames = (16, 320, 128, 128), (64, 256, 56, 56), (64, 64, 112, 112)


def normal(*shape, dtype=bf16):
    return torch.randn(*shape, device="cuda", dtype=dtype)


def integers(high, *shape):
    return torch.randint(0, high, shape, device="cuda")


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


def either(fn, inputs, back):
    """The call of fn, or of its gradients, on what `inputs` makes."""
    return lambda: gradients(fn, *inputs()) if back else (lambda x: lambda: fn(*x))(inputs())


def both(name, fn, inputs):
    return {f"{name}_forward": either(fn, inputs, False), f"{name}_backward": either(fn, inputs, True)}


def of_rows(name, fn, weights):
    return both(name, fn, lambda: [normal(rows, columns)] + [normal(columns) for _ in range(weights)])


def of_channels(name, fn, shape):
    return both(name, fn, lambda: [normal(*shape), normal(shape[1]), normal(shape[1])])


def cross_entropy():
    logits, target = normal(16384, vocabulary).requires_grad_(), integers(50257, 16384)
    return lambda: torch.autograd.grad(F.cross_entropy(logits, target), logits)


def parameters():
    p = [normal(1240000, dtype=f32).requires_grad_() for _ in range(100)]
    for q in p:
        q.grad = torch.randn_like(q)
    return p


def clip():
    p = parameters()
    return lambda: torch.nn.utils.clip_grad_norm_(p, 1.0)


def adamw(clips):
    def make():
        p = parameters()
        step = torch.optim.AdamW(p, fused=True).step

        def clipped():
            torch.nn.utils.clip_grad_norm_(p, 1.0)
            step()
        return clipped if clips else step
    return make


def embedding(back):
    def make():
        w, i = normal(vocabulary, 768), integers(50257, rows)
        fn = lambda w: F.embedding(i, w)
        return gradients(fn, w) if back else (lambda: fn(w))
    return make


def indexed(fn):
    def make():
        x, y = normal(side, columns, dtype=f32), normal(side, columns, dtype=f32)
        i = integers(columns, side, columns)
        return lambda: fn(x, y, i)
    return make


def attention(name, batch, heads, length, width, causal=False):
    def fn(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def make(back):
        def call():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                q, k, v = (normal(batch, heads, length, width) for _ in range(3))
                if back:
                    return gradients(fn, q, k, v)

                def run():
                    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                        return fn(q, k, v)
                return run
        return call
    return {f"attention_{name}_forward": make(False), f"attention_{name}_backward": make(True)}


def conv(name, batch, channels, size, kept, kernel):
    last = lambda *s: normal(*s).to(memory_format=torch.channels_last)
    return both(f"conv_{name}", lambda x, w: F.conv2d(x, w, padding=kernel // 2),
                lambda: [last(batch, channels, size, size), last(kept, channels, kernel, kernel)])


def product(dtype):
    def make():
        a, b = normal(8192, 8192, dtype=dtype), normal(8192, 8192, dtype=dtype)
        return lambda: a @ b
    return make


def workloads():
    """name -> a function that makes the inputs and returns the call; shapes as in kernels_bench.cpp."""
    return {
        "copy": copy, "pointwise_copy": square(lambda x: x + 1), "sum_all": square(lambda x: x.sum()),
        "sum_dim0": square(lambda x: x.sum(0)), "sum_dim1": square(lambda x: x.sum(1)),
        "transpose": square(lambda x: x.t().contiguous()), "gelu_chain": chain,
        **of_rows("layer_norm", lambda x, w, b: F.layer_norm(x, (columns,), w, b), 2),
        **of_rows("rms_norm", lambda x, w: F.rms_norm(x, (columns,), w), 1),
        **of_rows("softmax", lambda x: torch.softmax(x, -1), 0),
        **of_rows("log_softmax", lambda x: torch.log_softmax(x, -1), 0),
        **of_channels("group_norm", lambda x, w, b: F.group_norm(x, 32, w, b), pictures),
        **of_channels("batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), images),
        "cross_entropy": cross_entropy, "adamw": adamw(False), "adamw_clipped": adamw(True), "clip_grad_norm": clip,
        "embedding_forward": embedding(False), "embedding_backward": embedding(True),
        "gather": indexed(lambda x, y, i: torch.gather(x, 1, i)), "scatter": indexed(lambda x, y, i: x.scatter(1, i, y)),
        "scatter_add": indexed(lambda x, y, i: x.scatter_add(1, i, y)), "cat": indexed(lambda x, y, i: torch.cat((x, y), 1)),
        "sort": indexed(lambda x, y, i: x.sort()), "topk": indexed(lambda x, y, i: x.topk(10)),
        "cumsum": indexed(lambda x, y, i: x.cumsum(1)), "argmax": indexed(lambda x, y, i: x.argmax(1)),
        **both("max_pool", lambda x: F.max_pool2d(x, 3, 2, 1), lambda: [normal(*frames)]),
        **both("avg_pool", lambda x: F.avg_pool2d(x, 2), lambda: [normal(*frames)]),
        "pad": either(lambda x: F.pad(x, (1, 1, 1, 1)), lambda: [normal(*frames)], False),
        "rand": lambda: lambda: torch.rand(side, side, device="cuda"),
        "randn": lambda: lambda: torch.randn(side, side, device="cuda"), "dropout": square(lambda x: F.dropout(x, 0.1)),
        "matmul_bf16": product(bf16), "matmul_tf32": product(f32),
        **attention("d64", 4, 16, 4096, 64), **attention("d128", 4, 16, 4096, 128),
        **attention("d128_causal", 4, 16, 4096, 128, True), **attention("l4608", 2, 24, 4608, 128),
        **attention("l16384", 1, 16, 16384, 128), **attention("gpt", 32, 12, 1024, 64, True),
        **conv("64x56", 64, 64, 56, 64, 3), **conv("256x56_1x1", 64, 256, 56, 64, 1), **conv("512x14", 64, 512, 14, 512, 3),
        **conv("320x128", 8, 320, 128, 320, 3), **conv("640x64", 8, 640, 64, 640, 3),
        **conv("1280x32", 8, 1280, 32, 1280, 3),
    }


def seconds_of(fn, calls):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        fn()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def main():
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    all_of_them, fn, calls, name = workloads(), None, 0, ""
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
                      "cudnn": ".".join(map(str, divmod(torch.backends.cudnn.version() // 100, 100)))}), flush=True)
    for line in map(str.strip, sys.stdin):
        try:
            if line != "time":
                fn = None
                torch.cuda.empty_cache()
                fn, name = all_of_them[line](), line
            with torch.set_grad_enabled("backward" in name or name == "cross_entropy"):
                if line == "time":
                    print(1e6 * seconds_of(fn, calls), flush=True)
                    continue
                seconds_of(fn, 2)
                calls = int(min(max(0.02 / seconds_of(fn, 3), 2), 200))
                print("{\"ready\": 1}", flush=True)
        except Exception as e:
            print(f"torch_kernels: {line}: {e!r}", file=sys.stderr)
            print("{}", flush=True)


main()

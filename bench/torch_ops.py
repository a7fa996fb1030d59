"""The ops of bench/ops_bench.cpp in PyTorch, one JSON line each: torch_ops.py [--threads N] [NAME...]."""
import argparse
import json
import time

import torch
import torch.nn.functional as F

r = torch.randn


def integers(high, *shape):
    return torch.randint(0, high, shape)


def forward(fn, *inputs):
    return lambda: fn(*inputs)


def gradients(fn, *inputs):
    for x in inputs:
        x.requires_grad_()
    y = fn(*inputs)
    g = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)


def unary(fn):
    return lambda: forward(fn, r(1024, 1024))


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def layer_norm(x, w, b):
    return F.layer_norm(x, (512,), w, b)


def conv(x, w):
    return F.conv2d(x, w, padding=1)


def heads():
    return [r(16, 8, 128, 32) for _ in range(3)]


MAKERS = {
    "relu": unary(torch.relu), "exp": unary(torch.exp), "tanh": unary(torch.tanh), "sigmoid": unary(torch.sigmoid),
    "gelu": unary(F.gelu), "silu": unary(F.silu), "sqrt": unary(torch.sqrt), "clamp": unary(lambda x: x.clamp(-0.5, 0.5)),
    "to_bfloat16": unary(lambda x: x.to(torch.bfloat16)), "transpose_copy": unary(lambda x: x.t().contiguous()),
    "sum_all": unary(torch.sum), "sum_rows": unary(lambda x: x.sum(1)), "sum_columns": unary(lambda x: x.sum(0)),
    "mean": unary(lambda x: x.mean(1)), "amax": unary(lambda x: x.amax(1)), "argmax": unary(lambda x: x.argmax(1)),
    "var": unary(lambda x: x.var(1)), "softmax": unary(lambda x: x.softmax(-1)), "log_softmax": unary(lambda x: x.log_softmax(-1)),
    "cumsum": unary(lambda x: x.cumsum(1)), "sort": unary(lambda x: x.sort()), "topk": unary(lambda x: x.topk(10)),
    "pad": unary(lambda x: F.pad(x, (1, 1, 1, 1))),
    "add": lambda: forward(torch.add, r(1024, 1024), r(1024, 1024)),
    "add_row": lambda: forward(torch.add, r(1024, 1024), r(1024)),
    "where": lambda: forward(torch.where, r(1024, 1024) > 0, r(1024, 1024), r(1024, 1024)),
    "cat": lambda: forward(lambda *t: torch.cat(t, 1), r(1024, 512), r(1024, 512)),
    "dropout": lambda: forward(lambda x: F.dropout(x, 0.1), r(1024, 1024)),
    "randn": lambda: forward(lambda: r(1024, 1024)),
    "embedding": lambda: forward(lambda w, i: F.embedding(i, w), r(10000, 256), integers(10000, 4096)),
    "gather": lambda: forward(lambda x, i: x.gather(1, i), r(1024, 1024), integers(1024, 1024, 256)),
    "index_add": lambda: forward(lambda x, i, s: x.index_add(0, i, s), r(1024, 256), integers(1024, 4096), r(4096, 256)),
    "matmul": lambda: forward(torch.matmul, r(512, 512), r(512, 512)),
    "matmul_tall": lambda: forward(torch.matmul, r(4096, 256), r(256, 64)),
    "bmm": lambda: forward(torch.matmul, r(64, 128, 64), r(64, 64, 128)),
    "linear": lambda: forward(F.linear, r(2048, 256), r(1024, 256), r(1024)),
    "conv2d": lambda: forward(conv, r(16, 64, 28, 28), r(64, 64, 3, 3)),
    "conv2d_1x1": lambda: forward(F.conv2d, r(16, 128, 28, 28), r(64, 128, 1, 1)),
    "conv2d_depthwise": lambda: forward(lambda x, w: F.conv2d(x, w, padding=1, groups=64), r(16, 64, 28, 28), r(64, 1, 3, 3)),
    "max_pool2d": lambda: forward(lambda x: F.max_pool2d(x, 2), r(32, 64, 28, 28)),
    "avg_pool2d": lambda: forward(lambda x: F.avg_pool2d(x, 2), r(32, 64, 28, 28)),
    "interpolate_bilinear": lambda: forward(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), r(8, 32, 32, 32)),
    "layer_norm": lambda: forward(layer_norm, r(2048, 512), r(512), r(512)),
    "rms_norm": lambda: forward(lambda x, w: F.rms_norm(x, (512,), w), r(2048, 512), r(512)),
    "group_norm": lambda: forward(lambda x, w, b: F.group_norm(x, 8, w, b), r(16, 64, 28, 28), r(64), r(64)),
    "cross_entropy": lambda: forward(F.cross_entropy, r(2048, 1000), integers(1000, 2048)),
    "attention": lambda: forward(attention, *heads()),
    "layer_norm_backward": lambda: gradients(layer_norm, r(2048, 512), r(512), r(512)),
    "softmax_backward": lambda: gradients(lambda x: x.softmax(-1), r(1024, 1024)),
    "gelu_backward": lambda: gradients(F.gelu, r(1024, 1024)),
    "linear_backward": lambda: gradients(F.linear, r(2048, 256), r(1024, 256), r(1024)),
    "conv2d_backward": lambda: gradients(conv, r(16, 64, 28, 28), r(64, 64, 3, 3)),
    "attention_backward": lambda: gradients(attention, *heads()),
}


def seconds_of(fn):
    fn()
    fn()
    times, start = [], time.perf_counter()
    while len(times) < 7 or time.perf_counter() - start < 0.15:
        t = time.perf_counter()
        fn()
        times.append(time.perf_counter() - t)
    return sorted(times)[len(times) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name, maker in MAKERS.items():
        if options.names and name not in options.names:
            continue
        call = maker()
        timed = torch.enable_grad() if name.endswith("_backward") else torch.no_grad()
        with timed:
            print(json.dumps({"workload": name, "value": seconds_of(call) * 1e6}), flush=True)


if __name__ == "__main__":
    main()

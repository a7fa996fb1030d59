"""Do FLAME and PyTorch, from the same weights on the same batches, have the same losses within noise for 50 steps? The noise at a
step is the most that moving all initial weights by one ulp, up or down at random, changes PyTorch's loss, over some such changes,
or the loss's own ulp; FLAME may differ by four times that. Both clip, to a norm that every gradient exceeds; as a control, FLAME without clipping must
be told apart."""
import math
import tempfile

from compare_systems import System, curve, export

STEPS, LIMIT, MAX_NORM = 50, 4, 0.1


def ulp(loss):
    return 2.0 ** (math.frexp(loss)[1] - 24)  # of float32


def compare(workload, build, size, device, folder):
    """The losses of both, those without clipping, and the noise."""
    weights, data = export(workload, folder, size, 4 if (workload, size) == ("resnet50", "full") else 8)
    flags = ["--weights", weights, "--data", data, "--size", size, "--device", device]
    if device == "cpu":
        flags += ["--precision", "float32"]

    def ours(clip):
        peer = System("flame", workload, build, *flags, "--max-norm", clip)
        losses = curve(peer, STEPS)
        peer.end()
        return losses
    torch = System("torch_eager", workload, build, *(f.replace("cuda:0", "cuda") if f == device else f for f in flags), "--max-norm", MAX_NORM)
    base, moved = curve(torch, STEPS), []
    for seed in range(8 if size == "full" else 16):
        torch.first = torch.ask(f"ulp {seed}")
        moved.append(curve(torch, STEPS))
    torch.end()
    noise = [max(*(abs(a - b) for a in column), ulp(b)) for b, *column in zip(base, *moved)]
    return {"torch": base, "flame": ours(MAX_NORM), "without_clipping": ours(0), "noise": noise}


def outside(curves, which):
    """How many times the noise each step is off, and how many steps are off by more than the limit."""
    off = [abs(a - b) / n for a, b, n in zip(curves[which], curves["torch"], curves["noise"])]
    return max(off), sum(o > LIMIT for o in off)


def check(workloads, build, size, device):
    good = True
    for workload in workloads:
        with tempfile.TemporaryDirectory() as folder:
            curves = compare(workload, build, size, device, folder)
        (most, off), (_, control) = outside(curves, "flame"), outside(curves, "without_clipping")
        print(f"{workload}: loss {curves['torch'][0]:.4f} to {curves['torch'][-1]:.4f}; at most {most:.2f} times the noise, {off} of "
              f"{STEPS} steps outside; without clipping {control} outside", flush=True)
        good &= off == 0 and control > 0
    return good

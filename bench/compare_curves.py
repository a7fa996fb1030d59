"""Do FLAME and PyTorch, from the same weights on the same batches, have the same losses within noise for 50 steps? The noise at a
step is the most that moving all initial weights by one ulp, up or down at random, changes PyTorch's loss, over some such changes,
or the loss's own ulp; FLAME may differ by four times that. Both compute in float32, since an ulp of a weight moves few roundings to
16 bits, and another order of sums all of them; and clip, to a norm that every gradient exceeds; as a control, FLAME without clipping
must be told apart. And how far does each, in the precision of the benchmark, deviate from itself in float32 on the first batch?"""
import math
import tempfile

from compare_systems import System, curve, export, run_once

STEPS, LIMIT, MAX_NORM = 50, 4, 0.1


def ulp(loss):
    return 2.0 ** (math.frexp(loss)[1] - 24)  # of float32


def compare(workload, build, size, device, folder):
    """The losses of both, those without clipping, and the noise."""
    flags = [*export(workload, folder, size), "--precision", "float32"]

    def ours(clip):
        peer = System("flame", workload, build, device, *flags, "--max-norm", clip)
        losses = curve(peer, STEPS)
        peer.end()
        return losses
    torch = System("torch_eager", workload, build, device, *flags, "--max-norm", MAX_NORM)
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


def deviation(workload, build, size, device, folder):
    """{system: {"gradient", "logits", "loss"}}: the norm of the difference to float32 over that of float32, over all draws."""
    import torch_compare
    squares = {}
    for seed in range(1 if size == "full" else 8):
        flags = export(workload, folder, size, 1, seed)
        for system in ("flame", "torch_eager"):
            files = [f"{folder}/{system}.low", f"{folder}/{system}.exact"]
            for file, precision in zip(files, ([], ["--precision", "float32"])):
                run_once(system, workload, build, device, *flags, *precision, "--check", file)
            low, exact = map(torch_compare.load, files)
            for name, t in exact.items():
                of = squares.setdefault(system, {}).setdefault(name.split(".")[0], [0, 0])
                of[0] += (low[name].float() - t).double().pow(2).sum().item()
                of[1] += t.double().pow(2).sum().item()
    return {system: {kind: math.sqrt(away / norm) for kind, (away, norm) in kinds.items() if kind != "after"}
            for system, kinds in squares.items()}


def check_deviation(workloads, build, size, device):
    """Whether FLAME's gradients and logits deviate no more than PyTorch's, to 2 % of it."""
    good = True
    for workload in workloads:
        with tempfile.TemporaryDirectory() as folder:
            found = deviation(workload, build, size, device, folder)
        print(f"{workload}: deviation from float32: " + "; ".join(
            f"{kind} FLAME {found['flame'][kind]:.3e}, PyTorch {found['torch_eager'][kind]:.3e}" for kind in found["flame"]), flush=True)
        good &= all(found["flame"][kind] <= 1.02 * found["torch_eager"][kind] for kind in ("gradient", "logits"))
    return good

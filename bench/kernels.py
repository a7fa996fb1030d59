"""Times the kernels of FLAME and PyTorch on one GPU in turn, beside a plain copy in the same run; writes
bench/results/kernels.json and from it the table of docs/performance.md. GB/s are by ideal bytes (each input once, each
output once). FLAME takes the cuBLAS and cuDNN of PyTorch's wheels where there are some.

usage: bench/kernels.py [--build build] [--turns 5] [--out FILE] [WORKLOAD...] (run by a Python that has torch)
       bench/kernels.py --page [FILE] (the record, and the page, from what --out left, or the page from the record)
"""
import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import record  # noqa: E402

BEGIN, END = "<!-- bench/kernels.py: table -->\n", "<!-- end of table -->\n"


def wheel_libraries():
    """Folders of NVIDIA's libraries beside PyTorch."""
    spec = importlib.util.find_spec("nvidia")
    return [str(f) for root in (spec.submodule_search_locations if spec else []) for f in pathlib.Path(root).glob("*/lib")]


class Peer:
    """One of the programs that time a workload on request."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()


def measure(build, turns, workloads):
    """Yields {"machine": ..., "rows": ..., "failed": ...} after each workload; the systems take turns within one."""
    ours = dict(os.environ)
    ours["LD_LIBRARY_PATH"] = ":".join(filter(None, [*wheel_libraries(), ours.get("LD_LIBRARY_PATH")]))
    program = str(pathlib.Path(build) / "bench/kernels_bench")
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    torch = Peer([sys.executable, str(ROOT / "bench/torch_kernels.py")])
    machine = {**torch.answer(), "threads": len(os.sched_getaffinity(0))}
    peers = {"flame": Peer([program], ours), "torch": torch}
    rows, failed = [], [f"no workload {name}" for name in workloads if name not in names]
    names = [name for name in names if not workloads or name in workloads]
    for at, name in enumerate(names):
        ready = {system: peer.ask(name) for system, peer in peers.items()}
        failed += [f"{name}: {system} has no result" for system in peers if not ready[system]]
        times = {system: [] for system in peers if ready[system]}
        for _ in range(turns):
            for system, took in times.items():
                took.append(peers[system].ask("time"))
        kind, amount = next(iter(ready["flame"].items()), (None, 0))
        if kind:
            metric, unit, scale, digits = {"bytes": ("bandwidth", "GB/s", 1e3, 1),
                                           "operations": ("throughput", "TFLOP/s", 1e6, 2)}[kind]
            for system, took in times.items():
                row = record.row(name, metric, unit, [round(amount / t / scale, digits) for t in took], system)
                rows += [{**row, "system": "copy"}, row] if (name, system) == ("copy", "flame") else [row]
        yield {"machine": machine, "rows": rows, "failed": failed + [f"{left}: not measured" for left in names[at + 1:]]}


def table(rows):
    """The page's table; bold: below the floor, the better of PyTorch and, by bytes, 60 % of the copy."""
    best = {(r["workload"], r["system"]): r for r in rows}
    roof = max([r["median"] for r in rows if r["workload"] == "copy"], default=0)
    out = "| kernel | FLAME | PyTorch | of the copy |\n|---|---|---|---|\n"
    for name in dict.fromkeys(r["workload"] for r in rows):
        own, peer = best.get((name, "flame")), best.get((name, "torch"))
        if not own:
            out += f"| {name} | **none** | {peer['median']:.0f} | |\n"
            continue
        bandwidth, value = own["metric"] == "bandwidth", f"{own['median']:.0f}"
        floor = max(peer["median"] if peer else 0, 0.6 * roof if bandwidth else 0)
        out += (f"| {name.replace('_', ' ')}{'' if bandwidth else ', TFLOP/s'} | "
                f"{value if own['median'] >= floor else f'**{value}**'} | {round(peer['median']) if peer else 'not measured'} | "
                f"{format(own['median'] / roof, '.2f') if bandwidth and roof else ''} |\n")
    return out


def write_page(rows):
    page = ROOT / "docs/performance.md"
    text = page.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(text[:begin] + table(rows) + text[end:])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("workloads", nargs="*")
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--out", help="write what was measured there as JSON, neither record nor page")
    p.add_argument("--page", nargs="?", const="", help="measure nothing")
    a = p.parse_args()
    if a.page == "":
        return write_page(json.loads((ROOT / "bench/results/kernels.json").read_text())["rows"])
    for seen in [json.loads(pathlib.Path(a.page).read_text())] if a.page else measure(a.build, a.turns, a.workloads):
        if a.out:
            pathlib.Path(a.out).write_text(json.dumps(seen) + "\n")
    print(table(seen["rows"]), end="")
    if seen["failed"]:
        raise SystemExit("\n".join(seen["failed"]))
    if a.out:
        return
    machine = dict(seen["machine"])
    record.write("kernels", seen["rows"], machine.pop("threads"), {k: v for k, v in machine.items() if k != "device"},
                 machine.get("device"))
    write_page(seen["rows"])


if __name__ == "__main__":
    main()

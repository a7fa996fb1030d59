"""Times the kernels of FLAME and PyTorch on one GPU in turn, beside a plain copy in the same run; writes
bench/results/kernels.json and from it the table of docs/performance.md. GB/s are by ideal bytes (each input once, each
output once). FLAME takes the cuBLAS and cuDNN of PyTorch's wheels where there are some.

usage: bench/kernels.py [--build build] [--rounds 2] [--out FILE] [WORKLOAD...] (run by a Python that has torch)
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


def measure(build, rounds, workloads):
    """Yields {"machine": ..., "rows": ...} after each round, in which the systems take turns."""
    ours = dict(os.environ)
    ours["LD_LIBRARY_PATH"] = ":".join(filter(None, [*wheel_libraries(), ours.get("LD_LIBRARY_PATH")]))
    systems = {"flame": ([str(pathlib.Path(build) / "bench/kernels_bench"), *workloads], ours),
               "torch": ([sys.executable, str(ROOT / "bench/torch_kernels.py"), *workloads], None)}
    times, work, machine = {}, {}, {}
    for _ in range(rounds):
        for system, (command, environment) in systems.items():
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
            for line in map(json.loads, done.stdout.splitlines()):
                if "workload" not in line:
                    machine = {**line, "threads": len(os.sched_getaffinity(0))}
                    continue
                name = line["workload"]
                times.setdefault((name, system), []).extend(line["microseconds"])
                for kind in {"bytes", "operations"} & set(line):
                    work[name] = (kind, line[kind])
            if done.returncode != 0:
                print(f"{system}: ended with {done.returncode}", file=sys.stderr)
        yield {"machine": machine, "rows": rows_of(times, work)}


def rows_of(times, work):
    rows = []
    for (name, system), took in times.items():
        if name not in work:
            continue
        kind, amount = work[name]
        metric, unit, scale, digits = {"bytes": ("bandwidth", "GB/s", 1e3, 1),
                                       "operations": ("throughput", "TFLOP/s", 1e6, 2)}[kind]
        row = record.row(name, metric, unit, [round(amount / t / scale, digits) for t in took], system)
        if name == "copy" and system == "flame":
            rows.append({**row, "system": "copy"})
        rows.append(row)
    return rows


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
        bandwidth = own["metric"] == "bandwidth"
        floor = max(peer["median"] if peer else 0, 0.6 * roof if bandwidth else 0)
        value = f"{own['median']:.0f}"
        out += (f"| {name.replace('_', ' ')}{'' if bandwidth else ', TFLOP/s'} | {value if own['median'] >= floor else f'**{value}**'} | "
                f"{round(peer['median']) if peer else ''} | {format(own['median'] / roof, '.2f') if bandwidth and roof else ''} |\n")
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
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--out", help="write what was measured there as JSON, neither record nor page")
    p.add_argument("--page", nargs="?", const="", help="measure nothing")
    a = p.parse_args()
    if a.page == "":
        return write_page(json.loads((ROOT / "bench/results/kernels.json").read_text())["rows"])
    rounds = [json.loads(pathlib.Path(a.page).read_text())] if a.page else measure(a.build, a.rounds, a.workloads)
    for seen in rounds:
        if a.out:
            pathlib.Path(a.out).write_text(json.dumps(seen) + "\n")
    print(table(seen["rows"]), end="")
    if a.out:
        return
    machine = dict(seen["machine"])
    record.write("kernels", seen["rows"], machine.pop("threads", 0), {k: v for k, v in machine.items() if k != "device"},
                 machine.get("device"))
    write_page(seen["rows"])


if __name__ == "__main__":
    main()

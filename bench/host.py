#!/usr/bin/env python3
"""What recording, flushing, calling and replaying cost the host (bench/host_bench.cpp), beside what is allowed on a GPU's
host; with a GPU it writes bench/results/host.json. Takes the cuBLAS and cuDNN of PyTorch's wheels where there are some.

usage: bench/host.py [--build build] [--devices cpu,cuda:0] [--runs 5] [--ops 1000000]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tools")]
import record  # noqa: E402
from kernels import wheel_libraries  # noqa: E402

ALLOWED = {"record an op": 0.3, "cached flush of 8 ops": 3, "opaque op": 5, "replay of a training step": 10}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=str(ROOT / "build"))
    p.add_argument("--devices", default="cpu,cuda:0")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--ops", type=int, default=1000000)
    a = p.parse_args()
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [*wheel_libraries(), environment.get("LD_LIBRARY_PATH")]))
    rows, above = [], []
    for device in a.devices.split(","):
        values = {}
        for _ in range(a.runs):
            out = subprocess.run([f"{a.build}/bench/host_bench", "--device", device, "--ops", str(a.ops)], env=environment,
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
            for line in map(json.loads, out.splitlines()):
                values.setdefault(line["workload"], []).append(line["microseconds"])
        for workload, took in values.items():
            rows.append(record.row(f"{workload}, {device}", "step_time", "us", took))
            most = ALLOWED.get(workload)
            print(f"{device:7} {workload:26} {rows[-1]['median']:8.3f} us" + (f"  (at most {most} on a GPU)" if most else ""))
            if device != "cpu" and most and rows[-1]["median"] > most:
                above.append(f"{workload}: {rows[-1]['median']} us")
    if a.devices != "cpu":
        name, driver = record.output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()[0].split(", ")
        record.write("host", rows, len(os.sched_getaffinity(0)), {"driver": driver, "cpu": record.cpu_name()}, name)
    sys.exit("above what is allowed: " + "; ".join(above) if above else 0)


if __name__ == "__main__":
    main()

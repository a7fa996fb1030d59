"""Writes bench/results/NAME.json: figures with the machine, commit and versions they were measured on."""
import datetime
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def output_of(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def commit():
    """The short hash, with -dirty when the tree differs from it in more than earlier records; or what $FLAME_COMMIT says, for
    programs that were built elsewhere."""
    if "FLAME_COMMIT" in os.environ:
        return os.environ["FLAME_COMMIT"]
    changed = [l for l in output_of("git", "status", "--porcelain").splitlines() if "bench/results/" not in l]
    return output_of("git", "rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def row(workload, metric, unit, values, system="flame"):
    values = sorted(values) if isinstance(values, (list, tuple)) else [values]
    return {"workload": workload, "system": system, "metric": metric, "unit": unit,
            "median": values[len(values) // 2], "min": values[0], "max": values[-1], "n": len(values)}


def write(name, rows, threads, versions, device=None, **lists):
    record = {"name": name, "date": datetime.date.today().isoformat(), "commit": commit(),
              "device": device or cpu_name(), "threads": threads, "versions": versions}
    head = json.dumps(record, indent=1)[:-2]
    body = ",\n".join(f' "{what}": [\n' + ",\n".join("  " + json.dumps(r) for r in of) + "\n ]"
                      for what, of in {"rows": rows, **lists}.items())
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head},\n{body}}}\n")
    print(f"wrote {path.relative_to(ROOT)}")

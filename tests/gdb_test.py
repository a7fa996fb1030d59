"""tools/gdb_printers.py in gdb: tensors of several kinds, a state and a shape, as a person would print them."""
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])

PROGRAM = """
#include <flame/flame.h>
using namespace flame;
void stop(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Parameter&, const Tensor&, const Shape&) {}
int main() {
  Tensor whole = Tensor::from(std::vector<float>{0, 1.5f, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {3, 4});
  Tensor turned = whole.t().narrow(0, 1, 2).to(DType::bf16);
  turned.data();
  Tensor none, leaf = zeros({0, 2}, DType::i8).to(DType::f32).requires_grad_();
  leaf.data();
  Tensor pending = whole * 2;
  Parameter weight{Tensor::from(std::vector<double>{0.25, -1}, {2})};
  Shape shape{2, 0, 5};
  stop(whole, turned, pending, none, weight, leaf, shape);
}
"""
EXPECTED = {
    "whole": "Tensor float32 [3, 4] on cpu: [0, 1.5, 2, 3, 4, 5, 6, 7, ...]",
    "turned": "Tensor bfloat16 [2, 3] on cpu: [1.5, 5, 9, 2, 6, 10]",
    "pending": "Tensor float32 [3, 4] on cpu: pending",
    "none": "undefined Tensor",
    "weight": "Parameter float64 [2] on cpu: [0.25, -1]",
    "leaf": "Tensor float32 [0, 2] on cpu: [], requires grad",
    "shape": "[2, 0, 5]",
}


def compile_command():
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if entry["file"].endswith("examples/hello/main.cpp"):
            words = shlex.split(entry["command"])
            return [w for w in words[: words.index("-o")] if not w.endswith("ccache")]
    sys.exit("examples/hello is not built")


def main():
    if not shutil.which("gdb"):
        print("gdb is not installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "program.cpp"
        source.write_text(PROGRAM)
        subprocess.run([*compile_command(), "-g", "-O0", "-o", source.with_suffix(""), source, f"-L{BUILD}", "-lflame_core",
                        f"-Wl,-rpath,{BUILD}"], check=True)
        asked = list(EXPECTED)
        commands = [f"source {SOURCE}/tools/gdb_printers.py", "break stop", "run", "up", *(f"print {n}" for n in asked)]
        gdb = ["gdb", "-batch", "-nx", *(a for c in commands for a in ("-ex", c)), str(source.with_suffix(""))]
        out = subprocess.run(gdb, capture_output=True, text=True, timeout=120, env={**os.environ, "DEBUGINFOD_URLS": ""})
    if "Operation not permitted" in out.stderr + out.stdout:
        print("gdb may not trace processes here")
        sys.exit(77)
    printed = [line.split(" = ", 1)[1] for line in out.stdout.splitlines() if line.startswith("$")]
    wrong = [f"{n}: expected {EXPECTED[n]}, got {p}" for n, p in zip(asked, printed) if p != EXPECTED[n]]
    if wrong or len(printed) != len(asked):
        sys.exit("\n".join([*wrong, out.stdout, out.stderr]))
    print(f"{len(asked)} values printed")


main()

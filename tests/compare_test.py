"""bench/compare on the CPU: its models are PyTorch's (logits, loss, gradients and weights after a step), and train alike for 50
steps, which not clipping on one side undoes; a record is made of parts of one commit and binary, and of peers that are not slow.
Needs a Python with PyTorch: this one, or the one that $FLAME_TORCH_PYTHON names."""
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])
if importlib.util.find_spec("torch") is None:
    other = os.environ.get("FLAME_TORCH_PYTHON")
    if other and pathlib.Path(other).exists():
        os.execv(other, [other, *sys.argv])
    print("no PyTorch: name a Python that has it by FLAME_TORCH_PYTHON")
    sys.exit(77)
if not (BUILD / "bench/compare_bench").exists():
    print("bench/compare_bench is not built")
    sys.exit(77)

sys.path.insert(0, str(SOURCE / "bench"))
loader = importlib.machinery.SourceFileLoader("compare", str(SOURCE / "bench/compare"))
spec = importlib.util.spec_from_loader("compare", loader)
compare = importlib.util.module_from_spec(spec)
loader.exec_module(compare)
import compare_curves  # noqa: E402
import compare_page  # noqa: E402
import compare_systems  # noqa: E402
import torch_compare  # noqa: E402

# The largest relative difference (of norms) between the two, each about ten times what is seen.
LOGITS = {"gpt2_124m": 2e-6, "dit_b2": 2e-6, "resnet50": 5e-5, "cnn": 7e-6, "mlp": 6e-6}


class Models(unittest.TestCase):
    def test_are_those_of_pytorch(self):
        for workload, limit in LOGITS.items():
            with self.subTest(workload), tempfile.TemporaryDirectory() as folder:
                flags = [*compare_systems.export(workload, folder, "small", 2), "--precision", "float32"]
                for system in ("flame", "torch_eager"):
                    compare_systems.run_once(system, workload, BUILD, "cpu", *flags, "--check", f"{folder}/{system}")
                ours, theirs = (torch_compare.load(f"{folder}/{system}") for system in ("flame", "torch_eager"))
                self.assertEqual(ours.keys(), theirs.keys())
                for name, t in theirs.items():
                    away = ((ours[name].double() - t.double()).norm() / t.double().norm()).item()
                    self.assertLess(away, limit * (10 if name.startswith("after.") else 5), name)

    def test_train_alike(self):
        for workload in LOGITS:
            with self.subTest(workload), tempfile.TemporaryDirectory() as folder:
                curves = compare_curves.compare(workload, BUILD, "small", "cpu", folder)
                self.assertEqual(compare_curves.outside(curves, "flame")[1], 0)
                self.assertGreater(compare_curves.outside(curves, "without_clipping")[1], 10)

    def test_others_weights_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            flags = compare_systems.export("mlp", folder, "small", 1)
            command, environment = compare_systems.program_of("flame", "cnn", BUILD, "cpu", flags)
            wrong = subprocess.run(command, env=environment, capture_output=True, text=True)
            self.assertNotEqual(wrong.returncode, 0)
            self.assertIn("m.1.weight", wrong.stderr)


def sample(workload, system, value, metric="throughput", unit="tokens/s"):
    return {"workload": workload, "system": system, "metric": metric, "unit": unit, "values": [value, 2 * value, 3 * value]}


class Records(unittest.TestCase):
    def part(self, samples, **changes):
        return {"commit": "abc", "binary": "0", "machine": {}, "samples": samples, "missing": [], "about": []} | changes

    def test_parts_are_of_one_build(self):
        parts = [self.part([sample("gpt2_124m", "flame", 1)]), self.part([sample("gpt2_124m", "flame", 4)])]
        row, = compare.merged(parts)["rows"]
        self.assertEqual((row["n"], row["min"], row["max"]), (6, 1, 12))
        for change in ({"commit": "def"}, {"binary": "1"}, {"machine": {"device": "another"}}):
            with self.assertRaises(SystemExit):
                compare.merged([parts[0], parts[1] | change])

    def test_slow_peers_do_not_count(self):
        samples = [{**sample(w, s, 1), "metric": "step_time" if w in compare_systems.SMALL_NETS else "throughput", "values": [figure]}
                   for w, of in compare.STATED.items() for s, figure in of.items()]
        rows = compare.merged([self.part(samples)])["rows"]
        self.assertEqual(list(compare.too_slow(rows)), [])
        for row in rows:
            slower = row["median"] * (0.9 if row["metric"] == "throughput" else 1.1)
            changed = [{**r, "median": slower} if r is row else r for r in rows]
            self.assertEqual(len(list(compare.too_slow(changed))), 1)
            self.assertEqual(len(list(compare.too_slow([r for r in rows if r is not row]))), 1)

    def test_ratios(self):
        rows = compare.merged([self.part([sample("gpt2_124m", "flame", 30), sample("gpt2_124m", "torch_compile", 20),
                                          sample("mlp", "flame", 2, "step_time", "ms"),
                                          sample("mlp", "jax_scan", 3, "step_time", "ms")])])["rows"]
        lines = compare_page.table(rows).splitlines()
        self.assertIn("| 1.50x |", next(l for l in lines if "torch_compile" in l))
        self.assertIn("| 1.50x |", next(l for l in lines if "jax_scan" in l))
        self.assertIn(">1.50: 60 tokens/s", compare_page.picture(rows))
        self.assertIn(">1.50: 4 ms", compare_page.picture(rows))

    def test_dtypes_and_recordings(self):
        of = {"workload": "mlp", "first_loss": 2.3, "precision": "tf32", "dtypes": {
            "weights": ["float32"], "gradients": ["bfloat16", "float32"], "moments": ["float32"], "residual": "float32", "logits": "float32"}}
        ours = {**of, "system": "flame", "recorded": {"calls": 9, "replays": 6, "recordings": 1, "misses": 1, "last_miss": "other shapes"}}
        parts = [self.part([], about=[ours, {**of, "system": "torch_eager"}]), self.part([], about=[ours])]
        lines = compare_page.about_table(compare.merged(parts)["about"]).splitlines()[2:]
        self.assertEqual(len(lines), 2)
        self.assertIn("| mlp | flame | 2.3000 | tf32 | float32 | bfloat16/float32 |", lines[0])
        self.assertIn("1 recordings, 6 of 9 calls replayed, 1 misses (last: other shapes)", lines[0])

    def test_settling(self):
        self.assertAlmostEqual(compare_systems.settled(5, [1] * 3 + [0.1] * 40), 5 + 3 + 0.7)


if __name__ == "__main__":
    unittest.main(verbosity=2)

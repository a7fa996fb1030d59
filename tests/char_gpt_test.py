"""Drives examples/char_gpt as a person would: a short run and its files, Ctrl-C and an exact --resume, wrong input.
With FLAME_FULL set also the whole training, whose sample must consist of words of the text."""
import csv
import gzip
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ET

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])
BINARY = BUILD / "examples" / "char_gpt"
TEXT = pathlib.Path("/usr/share/doc/jargon-text/jargon.txt.gz")
SMALL = {"steps": 24, "batch": 4, "context": 16, "width": 32, "layers": 2, "heads": 2, "dropout": 0.1, "evaluate-every": 8,
         "sample": 40, "prompt": "the", "threads": 2}
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads crawl on a machine that others use


def command(*arguments, **flags):
    named = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [BINARY, *map(str, arguments), *named]


def program(*arguments, **flags):
    return subprocess.run(command(*arguments, **flags), capture_output=True, text=True, timeout=800)


def small(**changes):
    return {name.replace("-", "_"): value for name, value in SMALL.items()} | changes


class ShortRuns(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="flame-char-gpt-")
        cls.root = pathlib.Path(cls.scratch.name)
        cls.text = cls.root / "text.gz"
        with gzip.open(cls.text, "wt") as f:
            f.write("the quick brown fox jumps over the lazy dog\n" * 100 + "na\u00efve \u2502\n")
        cls.whole = cls.root / "whole"
        cls.result = program(**small(text=cls.text, out=cls.whole))

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def test_leaves_its_files(self):
        self.assertEqual(self.result.returncode, 0, self.result.stderr)
        self.assertIn("device cpu, 2 threads; 4406 characters; 24 steps, batch 4, context 16, seed 0", self.result.stdout)
        self.assertEqual(re.findall(r"^step (\d+)  validation loss \d\.\d{4}$", self.result.stdout, re.M), ["8", "16", "24"])
        with open(self.whole / "metrics.csv") as f:
            rows = list(csv.DictReader(f))
        losses = [float(r["loss"]) for r in rows if r["loss"]]
        self.assertEqual(len(losses), 24)
        self.assertLess(sum(losses[-4:]), 0.97 * sum(losses[:4]))
        self.assertEqual(sum(1 for r in rows if r["validation_loss"]), 3)
        sample = (self.whole / "sample.txt").read_text()
        self.assertEqual(len(sample), len("the") + 40 + 1)
        self.assertTrue(sample.startswith("the"))
        ET.parse(self.whole / "loss.svg")
        self.assertGreater((self.whole / "model.safetensors").stat().st_size, 4 * 26000)

    def test_resumes_exactly_after_an_interrupt(self):
        text = self.root / "mine.gz"
        text.write_bytes(self.text.read_bytes())
        long = small(text=text, steps=1500)
        whole, folder = self.root / "long", self.root / "stopped"
        self.assertEqual(program(**(long | {"out": whole})).returncode, 0)
        run = subprocess.Popen(command(**(long | {"out": folder})), stdout=subprocess.PIPE, text=True)
        for line in run.stdout:
            if line.startswith("step 8 "):
                break
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        self.assertEqual(run.wait(timeout=60), 130)
        other = self.root / "other.txt"
        other.write_text("another text " * 50)
        refused = program("--resume", out=folder, text=other)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("the run was begun with", refused.stderr)
        done = program("--resume", out=folder, prompt="the", sample=40)  # with the flags and the text it was begun with
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("model.safetensors", "metrics.csv", "sample.txt", "loss.svg"):
            self.assertEqual((folder / name).read_bytes(), (whole / name).read_bytes(), name)
        with gzip.open(text, "at") as f:
            f.write("more\n")
        changed = program("--resume", out=folder)
        self.assertIn("is not the text that the run was begun with", changed.stderr)

    def test_another_seed_is_another_run(self):
        folder = self.root / "other"
        self.assertEqual(program(**small(text=self.text, out=folder, seed=5)).returncode, 0)
        self.assertNotEqual((folder / "model.safetensors").read_bytes(), (self.whole / "model.safetensors").read_bytes())

    def test_mistakes_are_one_line(self):
        damaged = self.root / "damaged.gz"
        damaged.write_bytes(self.text.read_bytes()[:60])
        short = self.root / "short.txt"
        short.write_text("abc" * 20)
        wrong_calls = [
            ({"text": "/nowhere/text"}, "install it by `apt-get install jargon-text`"),
            ({"text": damaged}, "damaged.gz"),
            ({"text": short}, "expected more than the context of 16"),
            ({"heads": 3}, "--heads: 3 does not divide the width of 32"),
            ({"prompt": "\u00e9"}, "has no character of code 0xc3"),
            ({"nonsense": 1}, "--nonsense"),
        ]
        calls = [(command(**small(text=self.text, out=self.root / "wrong") | changes), expected) for changes, expected in wrong_calls]
        calls.append((command("--resume", out=self.root / "empty"), "nothing to resume"))
        for call, expected in calls:
            with self.subTest(expected):
                wrong = subprocess.run(call, capture_output=True, text=True, timeout=100)
                self.assertNotEqual(wrong.returncode, 0)
                self.assertIn(expected, wrong.stderr)
                self.assertEqual(wrong.stderr.count("\n"), 1, wrong.stderr)


@unittest.skipUnless("FLAME_FULL" in os.environ, "the whole training runs with FLAME_FULL")
class WholeRun(unittest.TestCase):
    def test_writes_words(self):
        with tempfile.TemporaryDirectory(prefix="flame-char-gpt-") as folder:
            done = program(out=folder, threads=2)
            self.assertEqual(done.returncode, 0, done.stderr)
            loss = float(re.findall(r"validation loss (\d\.\d+)", done.stdout)[-1])
            self.assertLess(loss, 1.6)
            words = re.findall(r"[a-z]{3,}", (pathlib.Path(folder) / "sample.txt").read_text().lower())
            with gzip.open(TEXT, "rt") as f:
                known = set(re.findall(r"[a-z]{3,}", f.read().lower()))
            self.assertGreater(sum(w in known for w in words), 0.8 * len(words))


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Drives examples/fashion_mnist as a person would: a short run and its files, Ctrl-C and --resume, wrong input, kill -9.
With FLAME_FULL set also the five full epochs, their accuracy, and ten kills instead of three."""
import csv
import gzip
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET
import zlib

SOURCE = pathlib.Path(os.environ.get("FLAME_SOURCE_DIR", pathlib.Path(__file__).resolve().parent.parent))
BUILD = pathlib.Path(os.environ.get("FLAME_BINARY_DIR", SOURCE / "build"))
BINARY = BUILD / "examples" / "fashion_mnist"
FULL = "FLAME_FULL" in os.environ
SHORT = ["--epochs", "2", "--limit", "2560", "--threads", "2"]
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads crawl on a machine that others use
EPOCH_LINE = re.compile(r"^epoch (\d+)  test accuracy (\d+\.\d\d) %$", re.M)


def program(*arguments, **options):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=800, **options)


def table(path):
    with open(path) as f:
        return list(csv.DictReader(f))


def float_hex(text):
    return struct.pack(">f", float(text)).hex()


class ShortRun(unittest.TestCase):
    """The files of one short run."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="flame-quickstart-")
        cls.folder = pathlib.Path(cls.scratch.name) / "runs" / "short"
        cls.result = program(*SHORT, "--out", cls.folder)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def test_prints_what_it_does(self):
        self.assertEqual(self.result.returncode, 0, self.result.stderr)
        out = self.result.stdout
        self.assertIn("device cpu, 2 threads; 2560 training and 10000 test images", out)
        for row in ("conv1", "conv2", "fc1", "fc2", "421,642"):
            self.assertIn(row, out)
        self.assertEqual([e for e, _ in EPOCH_LINE.findall(out)], ["1", "2"])
        self.assertRegex(out, r"epoch 1/2 +50%  [\d,]+ images/s  loss \d\.\d{4}  ETA 0:\d\d\n")
        self.assertNotIn("\r", out)  # no terminal here
        self.assertEqual(self.result.stderr, "")

    def test_predictions_give_the_printed_accuracy(self):
        rows = table(self.folder / "predictions.csv")
        self.assertEqual([int(r["index"]) for r in rows], list(range(10000)))
        labels = gzip.open("/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz").read()[8:]
        self.assertEqual([int(r["label"]) for r in rows], list(labels))
        right = sum(r["label"] == r["predicted"] for r in rows)
        accuracy = EPOCH_LINE.findall(self.result.stdout)[-1][1]
        self.assertEqual(f"{right / 100:.2f}", accuracy)
        self.assertGreater(float(accuracy), 60)  # 40 steps from scratch; chance is 10
        script = subprocess.run([sys.executable, SOURCE / "tools" / "accuracy.py", self.folder], capture_output=True, text=True)
        self.assertEqual(script.stdout, f"accuracy {accuracy} % ({right} of 10000)\n", script.stderr)

    def test_pytorch_gets_the_same_accuracy_from_the_weights(self):
        python = pathlib.Path(os.environ.get("FLAME_TORCH_PYTHON", "/nowhere"))
        if not python.exists():
            self.skipTest("no Python with PyTorch: set FLAME_TORCH_PYTHON")
        script = subprocess.run([python, SOURCE / "tools" / "torch_accuracy.py", self.folder], capture_output=True, text=True)
        self.assertEqual(script.returncode, 0, script.stdout + script.stderr)  # within one image
        self.assertIn("PyTorch", script.stdout)

    def test_metrics(self):
        rows = table(self.folder / "metrics.csv")
        losses = [r for r in rows if r["loss"]]
        self.assertEqual([int(r["step"]) for r in losses], list(range(1, 41)))
        self.assertLess(float(losses[-1]["loss"]), float(losses[0]["loss"]))
        self.assertEqual([r["epoch"] for r in losses], ["1"] * 20 + ["2"] * 20)
        self.assertEqual([r["test_accuracy"] for r in rows if r["test_accuracy"]][-1],
                         str(float(EPOCH_LINE.findall(self.result.stdout)[-1][1])).removesuffix(".0"))

    def test_tensorboard_reads_the_same_values(self):
        events, = self.folder.glob("*tfevents*")
        reader = SOURCE / "tests" / "readers" / "read_events.py"
        python = SOURCE / ".deps/pytest-venv/bin/python"
        if not python.exists():
            self.skipTest("no Python with TensorBoard: make test-deps installs one")
        read = subprocess.run([python, reader, events], capture_output=True, text=True)
        self.assertEqual(read.returncode, 0, read.stderr)
        found = sorted(tuple(line.split()) for line in read.stdout.splitlines())
        rows = table(self.folder / "metrics.csv")
        expected = sorted((tag, r["step"], float_hex(r[tag])) for r in rows for tag in ("epoch", "loss", "lr", "test_accuracy") if r[tag])
        self.assertGreater(len(expected), 100)
        self.assertEqual(found, expected)

    def test_pictures(self):
        png = (self.folder / "predictions.png").read_bytes()
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
        at, data = 8, b""
        while at < len(png):
            size, kind = struct.unpack(">I4s", png[at:at + 8])
            self.assertEqual(struct.unpack(">I", png[at + 8 + size:at + 12 + size])[0], zlib.crc32(png[at + 4:at + 8 + size]))
            data += png[at + 8:at + 8 + size] if kind == b"IDAT" else b""
            at += 12 + size
        self.assertEqual((depth, colour), (8, 2))
        self.assertEqual(len(zlib.decompress(data)), height * (1 + 3 * width))
        svg = ET.parse(self.folder / "loss.svg").getroot()
        self.assertTrue(svg.tag.endswith("svg"))
        self.assertIn("cross-entropy", " ".join(t.text or "" for t in svg.iter() if t.tag.endswith("text")))

    def test_weights_stand_alone(self):
        raw = (self.folder / "model.safetensors").read_bytes()
        header = raw[8:8 + struct.unpack("<Q", raw[:8])[0]].decode()
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            self.assertIn(f'"{layer}.weight"', header)
            self.assertIn(f'"{layer}.bias"', header)
        self.assertNotIn("exp_avg", header)

    def test_the_same_seed_gives_the_same_run_and_another_does_not(self):
        files = ("checkpoint.safetensors", "metrics.csv", "predictions.csv", "predictions.png", "loss.svg", "model.safetensors")
        with tempfile.TemporaryDirectory() as other:
            self.assertEqual(program(*SHORT, "--out", f"{other}/same", "--save-every", "7").returncode, 0)
            for f in files:
                self.assertEqual((pathlib.Path(other) / "same" / f).read_bytes(), (self.folder / f).read_bytes(), f)
            self.assertEqual(program(*SHORT, "--out", f"{other}/seed", "--seed", "1").returncode, 0)
            self.assertNotEqual((pathlib.Path(other) / "seed" / "metrics.csv").read_bytes(), (self.folder / "metrics.csv").read_bytes())

    def test_resume_of_a_finished_run_writes_the_results_again(self):
        with tempfile.TemporaryDirectory() as other:
            copy = pathlib.Path(other) / "run"
            shutil.copytree(self.folder, copy)
            (copy / "predictions.csv").unlink()
            result = program("--resume", "--out", copy)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual((copy / "predictions.csv").read_bytes(), (self.folder / "predictions.csv").read_bytes())
            self.assertEqual((copy / "metrics.csv").read_bytes(), (self.folder / "metrics.csv").read_bytes())

    def test_resume_with_other_settings_is_refused(self):
        result = program("--resume", "--out", self.folder, "--batch", "64")
        self.assertEqual((result.returncode, result.stderr),
                         (1, "fashion_mnist: --resume: the run was begun with --batch 128, got 64\n"))

    def test_a_damaged_checkpoint_falls_back_to_the_one_before(self):
        with tempfile.TemporaryDirectory() as other:
            copy = pathlib.Path(other) / "run"
            shutil.copytree(self.folder, copy)
            raw = bytearray((copy / "checkpoint.safetensors").read_bytes())
            raw[len(raw) // 2] ^= 1
            (copy / "checkpoint.safetensors").write_bytes(raw)
            result = program("--resume", "--out", copy)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertRegex(result.stdout, "note: .*damaged.*went back to")
            for f in ("checkpoint.safetensors", "metrics.csv", "predictions.csv"):
                self.assertEqual((copy / f).read_bytes(), (self.folder / f).read_bytes(), f)
            (copy / "checkpoint.prev.safetensors").write_bytes(b"no checkpoint")
            (copy / "checkpoint.safetensors").write_bytes(raw)
            result = program("--resume", "--out", copy)
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, r"^fashion_mnist: no whole checkpoint: .*damaged.*\n$")

    def test_ctrl_c_saves_and_says_how_to_go_on(self):
        with tempfile.TemporaryDirectory() as other:
            out = pathlib.Path(other) / "run"
            process = subprocess.Popen([BINARY, *SHORT, "--out", out], stdout=subprocess.PIPE, text=True)
            text = ""
            while "epoch 1/2   20%" not in text:  # in the middle of the first epoch
                line = process.stdout.readline()
                self.assertTrue(line, text)
                text += line
            process.send_signal(signal.SIGINT)
            text += process.communicate()[0]
            self.assertEqual(process.returncode, 130, text)
            stop = re.search(r"^stopped after step (\d+); go on with: (.*)$", text, re.M)
            self.assertIsNotNone(stop, text)
            self.assertLess(int(stop[1]), 40)
            resumed = subprocess.run(stop[2], shell=True, capture_output=True, text=True)
            self.assertEqual(resumed.returncode, 0, resumed.stderr)
            self.assertIn(f"resumed after step {stop[1]}\n", resumed.stdout)
            for f in ("checkpoint.safetensors", "metrics.csv", "predictions.csv", "loss.svg"):
                self.assertEqual((out / f).read_bytes(), (self.folder / f).read_bytes(), f)

    def test_a_terminal_gets_a_live_bar(self):
        main, side = pty.openpty()
        with tempfile.TemporaryDirectory() as other:
            process = subprocess.Popen([BINARY, "--epochs", "1", "--limit", "6400", "--out", other], stdout=side, stderr=side)
            os.close(side)
            text = b""
            try:
                while chunk := os.read(main, 4096):
                    text += chunk
            except OSError:  # how a closed terminal ends
                pass
            os.close(main)
            self.assertEqual(process.wait(), 0)
        self.assertGreater(text.count(b"\repoch 1/1  ["), 2)
        self.assertRegex(text, rb"epoch 1/1  \[=* *>? *\]")
        self.assertRegex(text, rb"ETA 0:\d\d")


class WrongInput(unittest.TestCase):
    """One clear line and a status that is not zero."""

    def fails(self, *arguments, status=1, text, env=None):
        result = program(*arguments, env={**os.environ, **(env or {})})
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("fashion_mnist: "), result.stderr)
        self.assertRegex(result.stderr, text)

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)
        self.out = ["--out", self.scratch / "run", "--epochs", "1", "--limit", "128"]

    def data_copy(self):
        shutil.copytree("/usr/share/datasets/fashion-mnist", self.scratch / "fashion-mnist")
        return self.scratch / "fashion-mnist", {"FLAME_DATASETS": str(self.scratch)}

    def test_missing_data_set(self):
        self.fails(*self.out, text="no data set in '.*/fashion-mnist': install it by `apt-get install dataset-fashion-mnist`",
                   env={"FLAME_DATASETS": str(self.scratch)})

    def test_missing_file(self):
        data, env = self.data_copy()
        (data / "t10k-labels-idx1-ubyte.gz").unlink()
        self.fails(*self.out, text="t10k-labels-idx1-ubyte", env=env)

    def test_damaged_file(self):
        data, env = self.data_copy()
        file = data / "train-images-idx3-ubyte.gz"
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 0x40
        file.write_bytes(raw)
        self.fails(*self.out, text="train-images-idx3-ubyte.gz.*damaged", env=env)

    def test_cut_file(self):
        data, env = self.data_copy()
        file = data / "train-labels-idx1-ubyte.gz"
        file.write_bytes(file.read_bytes()[:1000])
        self.fails(*self.out, text="train-labels-idx1-ubyte.gz.*cut off", env=env)

    def test_unwritable_folder(self):
        (self.scratch / "file").write_text("")
        self.fails("--out", self.scratch / "file" / "run", text="cannot create folder '.*/file': Not a directory")
        self.fails("--out", "/proc/run", text="/proc/run")

    def test_flags(self):
        self.fails("--epoch", "3", status=2, text="--epoch.* \\(see --help\\)")
        self.fails("--batch", "0", status=2, text="--batch")
        self.fails("--batch", "many", status=2, text="--batch")
        self.fails("--lr", "-1", status=2, text="--lr")
        self.fails("--device", "tpu", status=2, text="--device")
        self.fails("--threads", "0", status=2, text="--threads")

    def test_nothing_to_resume(self):
        self.fails("--resume", "--out", self.scratch / "empty", text="nothing to resume: no checkpoint in '.*/empty'")

    def test_help_names_every_flag(self):
        result = program("--help")
        self.assertEqual(result.returncode, 0)
        for flag in ("device", "epochs", "batch", "lr", "seed", "out", "resume", "threads", "limit", "help"):
            self.assertIn(f"--{flag}", result.stdout)
        self.assertNotIn("test-forget", result.stdout)


class Kill(unittest.TestCase):
    def test_kill_dash_nine(self):
        result = subprocess.run([SOURCE / "tools" / "kill-test", "--binary", BINARY, "--trials", "10" if FULL else "3"],
                                capture_output=True, text=True)
        print(result.stdout)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"\n\d+ passed, 0 failed\n$")


@unittest.skipUnless(FULL, "five full epochs only with FLAME_FULL")
class FullSize(unittest.TestCase):
    def test_default_seed_reaches_91_per_cent(self):
        with tempfile.TemporaryDirectory() as out:
            result = program("--threads", "2", "--out", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreaterEqual(max(float(a) for _, a in EPOCH_LINE.findall(result.stdout)), 91.0)


class Readme(unittest.TestCase):
    def test_the_programs_in_it_are_those_that_are_built(self):
        readme = (SOURCE / "README.md").read_text()
        blocks = re.findall(r"```cpp\n(.*?)```", readme, re.S)
        self.assertEqual(blocks, [(SOURCE / "examples" / "hello" / "main.cpp").read_text()])

    def test_its_program_learns(self):
        result = subprocess.run([BUILD / "examples" / "hello"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        losses = [float(l.split()[-1]) for l in result.stdout.splitlines()]
        self.assertLess(losses[-1], losses[0] / 50)

    def test_its_links_and_pictures_exist(self):
        readme = re.sub("```.*?```", "", (SOURCE / "README.md").read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#]+)\)", readme):
            if "://" not in target:
                self.assertTrue((SOURCE / target).exists(), target)


if __name__ == "__main__":
    cache = BUILD / "CMakeCache.txt"
    if not BINARY.exists() and cache.exists() and re.search(r"^FLAME_SANITIZE:\w+=.+$", cache.read_text(), re.M):
        print("the sanitizer builds make no examples")
        sys.exit(77)
    unittest.main(verbosity=2)

"""The systems that bench/compare lets train, each in a process of its own, and what is asked of them."""
import ctypes
import hashlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from kernels import Peer, wheel_libraries

BENCH = pathlib.Path(__file__).resolve().parent
SMALL_NETS = ("cnn", "mlp")
WORKLOADS = ("gpt2_124m", "dit_b2", "resnet50", *SMALL_NETS)
FLAME, TORCH = ["flame", "flame_eager"], ["torch_eager", "torch_compile"]
OF_SMALL_NETS = ["flame_repeat", "torch_eager_graph", "torch_compile_graph", "jax_jit", "jax_scan"]
CACHES = ("FLAME_CACHE", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def jobs(workloads, systems, device):
    """(workload, systems) that are measured in turn; autotuning takes so long that it goes with FLAME alone."""
    for name in workloads:
        every = FLAME + TORCH + (OF_SMALL_NETS if name in SMALL_NETS else [])
        for job in (every, ["flame", "torch_compile_max"]):
            wanted = [s for s in job if (not systems or s in systems) and not (device == "cpu" and s.endswith("_graph"))]
            if wanted and (job is every or "torch_compile_max" in wanted):
                yield name, wanted


def binary_hash(build):
    """Of what FLAME runs."""
    sums = [hashlib.sha256((pathlib.Path(build) / f).read_bytes()).hexdigest()
            for f in ("bench/compare_bench", "libflame_core.so.0.1.0", "libflame_cuda.so")]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:16]


class Gone(Exception):
    """A system's process ended."""


def program_of(system, workload, build, device, flags, environment=None):
    """Its command, and the environment it runs in."""
    flags = [workload, "--system", system, *map(str, flags), "--device"]
    environment = {**os.environ, **(environment or {})}
    if system.startswith("flame"):
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [*wheel_libraries(), environment.get("LD_LIBRARY_PATH")]))
        return [str(pathlib.Path(build) / "bench/compare_bench"), *flags, device], environment
    script = "jax_compare.py" if system.startswith("jax") else "torch_compare.py"
    return [sys.executable, str(BENCH / script), *flags, device.split(":")[0]], environment


def run_once(system, workload, build, device, *flags):
    command, environment = program_of(system, workload, build, device, flags)
    subprocess.run(command, env=environment, check=True)


class System(Peer):
    """A process that trains one workload; it has made its first step when this is made."""

    def __init__(self, system, workload, build, device, *flags, environment=None):
        start = time.monotonic()
        super().__init__(*program_of(system, workload, build, device, flags, environment))
        self.first = self.answer()
        self.first_step = time.monotonic() - start

    def answer(self):
        try:
            return super().answer()
        except SystemExit as e:
            raise Gone(str(e)) from None

    def end(self):
        self.process.communicate()


def export(workload, folder, size, batches=None, seed=0):
    """Flags that name files of the initial weights and of some batches: the same for all systems."""
    flags = [workload, "--size", size, "--weights", f"{folder}/{workload}.weights", "--data", f"{folder}/{workload}.data"]
    if batches is None:
        batches = 4 if (workload, size) == ("resnet50", "full") else 8
    subprocess.run([sys.executable, str(BENCH / "torch_compare.py"), *flags, "--export", "--seed", str(seed), "--batches", str(batches)],
                   check=True)
    return flags[1:]


class DeviceMemory:
    """The most bytes in use on the first GPU while it is watched, by NVML, beyond those in use at the beginning; 0 for the CPU."""

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    def __init__(self, device):
        self.used = self.by_nvml if device != "cpu" else lambda: 0
        if device == "cpu":
            return
        self.nvml, self.device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)):
            raise SystemExit("NVML does not show the GPU")

    def by_nvml(self):
        info = self.Info()
        if self.nvml.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(info)):
            raise SystemExit("NVML does not tell the GPU's memory")
        return info.used

    def __enter__(self):
        self.base = self.most = self.used()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.01):
            self.most = max(self.most, self.used())

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.most = max(self.most, self.used())

    @property
    def peak(self):
        return self.most - self.base


def settled(first, seconds):
    """When the median of ten steps is first within 5 % of that of the last ten."""
    last = statistics.median(seconds[-10:])
    for i in range(len(seconds) - 9):
        if abs(statistics.median(seconds[i:i + 10]) - last) <= 0.05 * last:
            return first + sum(seconds[:i + 10])
    raise AssertionError("the last ten are within 5 % of themselves")


class Measurement:
    """Samples of one workload by several systems on one device."""

    def __init__(self, workload, build, size, device, note):
        self.workload, self.build, self.size, self.device, self.note = workload, build, size, device, note
        self.samples, self.missing, self.about = [], [], []

    def add(self, system, metric, unit, values, of=""):
        self.samples.append({"workload": self.workload + of, "system": system, "metric": metric, "unit": unit,
                             "values": [float(f"{v:.6g}") for v in values]})

    def run(self, systems, turns, seconds, least, firsts):
        with tempfile.TemporaryDirectory() as folder:
            flags = export(self.workload, folder, self.size)
            start = lambda system: System(system, self.workload, self.build, self.device, *flags,
                                          environment={name: f"{folder}/{system}/{name}" for name in CACHES})
            running = {system: peer for system in systems if (peer := self.tried(system, self.begin, start))}
            took = {system: [] for system in running}
            for _ in range(turns):
                for system, answers in took.items():
                    answers.append(self.tried(system, lambda s: running[s].ask(f"time {seconds} {least}")))
            for system, answers in took.items():
                self.timed(system, running[system].first, [a for a in answers if a])
                running[system].end()
            for system in running if firsts else ():
                if system != "torch_compile_max":
                    again = [self.tried(system, self.again, start) for _ in range(firsts)]
                    self.add(system, "first_step", "s", [s for s in again if s], ", warm")

    def tried(self, system, what, *arguments):
        try:
            return what(system, *arguments)
        except (Gone, OSError) as e:
            self.miss(system, e)

    def miss(self, system, why):
        self.missing.append(f"{self.workload}: {system}: {why}")
        self.note(self.missing[-1])

    def begin(self, system, start):
        """Starts a system with empty caches: its first step, how it settles, and its memory."""
        with DeviceMemory(self.device) as memory:
            peer = start(system)
            seconds = peer.ask(f"steps {300 if self.workload in SMALL_NETS else 60}")["seconds"]
        about = peer.ask("about")
        self.about.append({"workload": self.workload, "system": system, "first_loss": peer.first["loss"], **about})
        self.add(system, "first_step", "s", [peer.first_step], ", cold")
        self.add(system, "first_step", "s", [settled(peer.first_step, seconds)], ", settled")
        self.add(system, "peak_memory", "GB", [about["peak_memory"] / 1e9])
        self.add(system, "peak_memory", "GB", [memory.peak / 1e9], ", by NVML")
        self.note(f"{self.workload} {system}: first step {peer.first_step:.2f} s, loss {peer.first['loss']:.4f}; peak "
                  f"{about['peak_memory'] / 1e9:.2f} GB, {memory.peak / 1e9:.2f} by NVML")
        return peer

    def timed(self, system, first, answers):
        missed = sum(a.get("misses", 0) for a in answers)
        if missed:
            self.miss(system, f"{missed} steps were not replayed while they were timed")
        step = [a["seconds"] / a["steps"] for a in answers]
        if step and self.workload in SMALL_NETS:
            self.add(system, "step_time", "ms", [1e3 * s for s in step])
        elif step:
            self.add(system, "throughput", first["unit"], [first["items"] / s for s in step])

    @staticmethod
    def again(system, start):
        peer = start(system)
        peer.end()
        return peer.first_step


def curve(peer, steps):
    return [peer.first["loss"], *peer.ask(f"steps {steps - 1}")["losses"]]

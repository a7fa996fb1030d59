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


def jobs(workloads, systems):
    """(workload, systems) that are measured in turn; autotuning takes so long that it goes with FLAME alone."""
    for name in workloads:
        every = FLAME + TORCH + (OF_SMALL_NETS if name in SMALL_NETS else [])
        for job in (every, ["flame", "torch_compile_max"]):
            wanted = [s for s in job if not systems or s in systems]
            if wanted and (job is every or "torch_compile_max" in wanted):
                yield name, wanted


def binary_hash(build):
    """Of what FLAME runs."""
    sums = [hashlib.sha256((pathlib.Path(build) / f).read_bytes()).hexdigest()
            for f in ("bench/compare_bench", "libflame_core.so.0.1.0", "libflame_cuda.so")]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:16]


class Gone(Exception):
    """A system's process ended."""


def program_of(system, build, environment):
    """Its command, and the environment it runs in."""
    environment = {**os.environ, **(environment or {})}
    if system.startswith("flame"):
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [*wheel_libraries(), environment.get("LD_LIBRARY_PATH")]))
        return [str(pathlib.Path(build) / "bench/compare_bench")], environment
    return [sys.executable, str(BENCH / ("jax_compare.py" if system.startswith("jax") else "torch_compare.py"))], environment


def run_once(system, workload, build, *flags):
    program, environment = program_of(system, build, None)
    subprocess.run([*program, workload, "--system", system, *map(str, flags)], env=environment, check=True)


class System(Peer):
    """A process that trains one workload; it has made its first step when this is made."""

    def __init__(self, system, workload, build, *flags, environment=None):
        program, environment = program_of(system, build, environment)
        start = time.monotonic()
        super().__init__([*program, workload, "--system", system, *map(str, flags)], environment)
        self.first = self.answer()
        self.first_step = time.monotonic() - start

    def answer(self):
        try:
            return super().answer()
        except SystemExit as e:
            raise Gone(str(e)) from None

    def end(self):
        self.process.communicate()


def export(workload, folder, size, batches, seed=0):
    """Files of the initial weights and of some batches."""
    weights, data = (pathlib.Path(folder) / f"{workload}.{what}" for what in ("weights", "data"))
    subprocess.run([sys.executable, str(BENCH / "torch_compare.py"), workload, "--export", "--size", size, "--seed", str(seed), "--weights", weights,
                    *(["--data", data, "--batches", str(batches)] if batches else [])], check=True)
    return weights, data


class DeviceMemory:
    """The most bytes in use on the first GPU while it is watched, by NVML, beyond those in use at the beginning."""

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    def __init__(self):
        self.nvml, self.device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)):
            raise SystemExit("NVML does not show the GPU")

    def used(self):
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
    """Samples of one workload by several systems on one GPU."""

    def __init__(self, workload, build, note):
        self.workload, self.build, self.note = workload, build, note
        self.samples, self.missing, self.about = [], [], []

    def add(self, system, metric, unit, values, of=""):
        self.samples.append({"workload": self.workload + of, "system": system, "metric": metric, "unit": unit,
                             "values": [float(f"{v:.6g}") for v in values]})

    def run(self, systems, turns, seconds, least, firsts):
        with tempfile.TemporaryDirectory() as folder:
            weights, _ = export(self.workload, folder, "full", 0)
            start = lambda system: System(system, self.workload, self.build, "--weights", weights,
                                          environment={name: f"{folder}/{system}/{name}" for name in CACHES})
            running = {system: peer for system in systems if (peer := self.begin(system, start))}
            self.take_turns(running, turns, seconds, least)
            for peer in running.values():
                peer.end()
            for system in running if firsts else ():
                self.add(system, "first_step", "s", [self.again(start, system) for _ in range(firsts)], ", warm")

    def begin(self, system, start):
        """Starts a system with empty caches: its first step, how it settles, and its memory."""
        try:
            with DeviceMemory() as memory:
                peer = start(system)
                seconds = peer.ask(f"steps {300 if self.workload in SMALL_NETS else 60}")["seconds"]
            about = peer.ask("about")
        except Gone as e:
            self.missing.append(f"{self.workload}: {system}: {e}")
            self.note(self.missing[-1])
            return None
        self.about.append({"workload": self.workload, "system": system, **about})
        self.add(system, "first_step", "s", [peer.first_step], ", cold")
        self.add(system, "first_step", "s", [settled(peer.first_step, seconds)], ", settled")
        self.add(system, "peak_memory", "GB", [about["peak_memory"] / 1e9])
        self.add(system, "peak_memory", "GB", [memory.peak / 1e9], ", by NVML")
        dtypes = ", ".join(f"{what} {kind if isinstance(kind, str) else '/'.join(kind)}" for what, kind in about["dtypes"].items())
        self.note(f"{self.workload} {system}: first step {peer.first_step:.2f} s, loss {peer.first['loss']:.4f}; {dtypes}; "
                  f"peak {about['peak_memory'] / 1e9:.2f} GB, {memory.peak / 1e9:.2f} by NVML")
        if about.get("recorded", {}).get("calls"):
            self.note(f"  recorded: {about['recorded']}")
        return peer

    def take_turns(self, running, turns, seconds, least):
        took = {system: [] for system in running}
        for _ in range(turns):
            for system in took:
                took[system].append(running[system].ask(f"time {seconds} {least}"))
        for system, answers in took.items():
            missed = sum(a.get("misses", 0) for a in answers)
            if missed:
                self.missing.append(f"{self.workload}: {system}: {missed} steps were not replayed while they were timed")
            step = [a["seconds"] / a["steps"] for a in answers]
            first = running[system].first
            if self.workload in SMALL_NETS:
                self.add(system, "step_time", "ms", [1e3 * s for s in step])
            else:
                self.add(system, "throughput", first["unit"], [first["items"] / s for s in step])

    @staticmethod
    def again(start, system):
        peer = start(system)
        peer.end()
        return peer.first_step


def curve(peer, steps):
    return [peer.first["loss"], *peer.ask(f"steps {steps - 1}")["losses"]]

"""Installs the built library into an empty folder and builds and runs a five-line program against it, by find_package
and by pkg-config, with the build tree's copies out of reach of the run-time loader."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])


def run(*command, **keywords):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **keywords)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def cache(name):
    for line in (BUILD / "CMakeCache.txt").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split("=", 1)[1]
    return ""


def check_output(how, program, prefix):
    """The program prints the right gradient, and every library of ours comes from the installed tree."""
    printed = run(program, env={k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}).strip()
    if [float(x) for x in re.findall(r"[\d.]+", printed.split("float32")[0])] != [2.0] * 6:
        sys.exit(f"{how}: expected a gradient of six twos, got\n{printed}")
    for line in run("ldd", program).splitlines():
        if ("libflame_core" in line or "libdnnl" in line) and str(prefix) not in line:
            sys.exit(f"{how}: not the installed library: {line.strip()}")
    print(f"{how}: built, ran and found its libraries in the installed tree")


def main():
    # An instrumented library would need an instrumented program; the plain build tests installing.
    if cache("FLAME_SANITIZE"):
        print("the installed tree is tested in a build without sanitizers")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder).resolve()
        prefix, app = work / "prefix", SOURCE / "tests/install/app"
        run("cmake", "--install", BUILD, "--prefix", prefix)
        library = next(prefix.rglob("libflame_core.so"))

        run("cmake", "-G", "Ninja", "-S", app, "-B", work / "app", f"-DCMAKE_PREFIX_PATH={prefix}")
        run("cmake", "--build", work / "app")
        check_output("find_package", work / "app/app", prefix)

        flags = run("pkg-config", "--cflags", "--libs", "flame",
                    env={**os.environ, "PKG_CONFIG_PATH": str(library.parent / "pkgconfig")}).split()
        run(cache("CMAKE_CXX_COMPILER"), app / "app.cpp", "-o", work / "by_pkg_config", *flags)
        check_output("pkg-config", work / "by_pkg_config", prefix)


main()

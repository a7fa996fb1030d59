"""Adding an op touches one file: a patch of one row is applied to a copy of the tree, what depends on that file is built
again, and the op must have its function, kernels, gradient, registry test and line in the op reference.

The objects of the build folder serve for everything else. A row only declares one more function for those who include
nothing but ops/pointwise.h, so they are built again only when FLAME_FULL is set."""
import concurrent.futures
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])
PATCH = SOURCE / "tests/layout/cube.patch"
LIBRARY = "libflame_core.so"


def run(command, folder):
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def files_under(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def patched_copy(copy):
    """A copy of the sources with the patch applied; returns the one file that differs."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("flame", "tests", "tools"):
        shutil.copytree(SOURCE / folder, copy / folder, ignore=ignore)
    before = files_under(copy)
    run(["git", "apply", PATCH], copy)
    after = files_under(copy)
    changed = [p for p in after if before.get(p) != after[p]] + [p for p in before if p not in after]
    if len(changed) != 1:
        sys.exit(f"the patch must change one file, it changes {changed}")
    return changed[0]


def stale_objects(changed):
    """Objects of the library that ninja would build again, by its own record of what each one read."""
    stale, target = set(), None
    cause = "flame/fuse/island.h" if changed.name == "pointwise.def" and "FLAME_FULL" not in os.environ else str(changed)
    for line in run(["ninja", "-t", "deps"], BUILD).splitlines():
        if line and not line.startswith(" "):
            target = line.split(":")[0]
        elif "room_" in target and ((BUILD / line.strip()).resolve() == SOURCE / cause or "/ops/pointwise" in target):
            stale.add(target)
    return stale


def compile_commands():
    """The build's compile commands, by object file."""
    entries = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        entries[words[words.index("-o") + 1]] = words
    return entries


def compile_command(command, copy, output):
    """The command of the build, reading the copy instead of the source tree."""
    words = []
    for word in command:
        if word == f"-I{SOURCE}" or word.startswith((f"{SOURCE}/flame/", f"{SOURCE}/tools/")):
            word = word.replace(str(SOURCE), str(copy), 1)
        words.append(word)
    words[words.index("-o") + 1] = str(output)
    return words


def build_again(copy, changed, commands, reference):
    """The library with the op in it, and the object file of the op reference."""
    stale = sorted(stale_objects(changed))
    if not stale:
        sys.exit(f"no object depends on {changed}")
    outputs = {o: copy / "objects" / f"{i}.o" for i, o in enumerate([*stale, reference])}
    (copy / "objects").mkdir()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda o: run(compile_command(commands[o], copy, outputs[o]), BUILD), outputs))

    link = next(c for c in run(["ninja", "-t", "commands", LIBRARY], BUILD).splitlines() if " -shared " in c)
    words = [str(outputs.get(w, w)) for w in shlex.split(link.removeprefix(": && ").removesuffix(" && :"))]
    words[words.index("-o") + 1] = str(copy / LIBRARY)
    run([w for w in words if not w.startswith("-Wl,-soname")], BUILD)
    print(f"{changed}: {len(stale)} of {sum('room_' in o for o in commands)} objects of the library built again")
    return outputs[reference]


def link_program(compiler, objects, copy, name):
    program = copy / name
    run([compiler, *objects, copy / LIBRARY, f"-Wl,-rpath,{copy}", "-lfmt", "-lgtest", "-lpthread", "-o", program], copy)
    return program


def main():
    if "FLAME_SANITIZE:STRING=\n" not in (BUILD / "CMakeCache.txt").read_text():
        print("the op is added in a build without sanitizers")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder).resolve()
        changed = patched_copy(copy)
        commands = compile_commands()
        reference = next(o for o in commands if o.endswith("/op_reference.cpp.o"))
        compiler = next(w for w in commands[reference] if w.endswith(("c++", "g++", "clang++")))
        reference_object = build_again(copy, changed, commands, reference)

        command = compile_command(commands[reference], copy, copy / "cube.o")
        command[command.index("-c") + 1] = str(copy / "tests/layout/cube.cpp")
        run(command, BUILD)
        print(run([link_program(compiler, [copy / "cube.o"], copy, "cube")], copy), end="")
        lines = run([link_program(compiler, [reference_object], copy, "op_reference")], copy).splitlines()
        if not any(line.startswith("| cube |") and "a^3" in line for line in lines):
            sys.exit("the op reference has no line for cube")
        print("reference line: yes")


main()

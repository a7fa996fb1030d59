"""Each room may include only itself and the rooms above it; internal headers and heavy headers stay out of flame.h."""
import os
import pathlib
import re
import tempfile

ROOMS = ["core", "device", "tensor", "fuse", "autograd", "ops", "nn", "optim", "io", "data", "train"]
# Readers and writers of files need tensors, not layers or training.
MAY_SEE_ONLY = {"io": {"core", "device", "tensor", "fuse", "autograd", "ops", "io"},
                "data": {"core", "device", "tensor", "fuse", "autograd", "ops", "io", "data"}}
HEAVY = re.compile(r"#\s*include\s*<(fmt/|nlohmann/|hwy/|CLI/|spng|zlib|protozero/|dnnl|oneapi/|omp\.h|iostream|regex)")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]flame/([^">]+)[">]', re.M)


def wrong_includes(root):
    """A line `file includes header` for each include that points down the list of rooms."""
    wrong = []
    for path in sorted((root / "flame").rglob("*")):
        room = path.relative_to(root / "flame").parts[0]
        if path.suffix not in (".h", ".cpp", ".def") or room not in ROOMS:
            continue
        for header in INCLUDE.findall(path.read_text()):
            target = header.split("/")[0]
            if header == "flame.h":
                wrong.append(f"{path.relative_to(root)} includes flame/flame.h, which holds every room")
            elif target not in ROOMS:
                wrong.append(f"{path.relative_to(root)} includes flame/{header}, which is in no room")
            elif ROOMS.index(target) > ROOMS.index(room) or target not in MAY_SEE_ONLY.get(room, ROOMS):
                wrong.append(f"{path.relative_to(root)} ({room}) includes flame/{header} ({target})")
    return wrong


def heavy_includes(root, umbrella):
    """A line for each slow header that a user of flame/flame.h would compile."""
    waiting, seen, heavy = [umbrella], set(), []
    while waiting:
        path = waiting.pop()
        text = path.read_text()
        heavy += [f"{path} has {m.group(0)}" for m in HEAVY.finditer(text)]
        for header in INCLUDE.findall(text):
            if header not in seen:
                seen.add(header)
                waiting.append(root / "flame" / header)
    return heavy


def check_planted():
    """The check itself finds what it should find, and only that."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for room in ROOMS:
            (root / "flame" / room).mkdir(parents=True)
        planted = {"core/a.h": "ops/matmul.h", "ops/b.cpp": "nn/module.h", "data/c.h": "nn/module.h",
                   "autograd/d.cpp": "flame.h", "io/e.cpp": "elsewhere/x.h"}
        right = {"nn/f.cpp": "ops/matmul.h", "ops/g.cpp": "ops/matmul.h", "train/h.cpp": "io/file.h"}
        for name, header in {**planted, **right}.items():
            (root / "flame" / name).write_text(f'// why\n#include "flame/{header}"\n')
        found = wrong_includes(root)
        assert len(found) == len(planted), f"planted {len(planted)} wrong includes, found {found}"
        for name in planted:
            assert any(f"flame/{name}" in line for line in found), f"the planted include in {name} was not found"

        umbrella = root / "flame.h"
        umbrella.write_text('#include "flame/ops/slow.h"\n')
        (root / "flame/ops/slow.h").write_text('#include "flame/core/slower.h"\n')
        (root / "flame/core/slower.h").write_text("#include <fmt/format.h>\n")
        assert len(heavy_includes(root, umbrella)) == 1, "the planted slow header was not found"


def main():
    check_planted()
    source, build = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])
    problems = wrong_includes(source) + heavy_includes(source, build / "generated/flame/flame.h")
    print("\n".join(problems) or "no include points down, and flame.h includes no slow header")
    raise SystemExit(1 if problems else 0)


main()

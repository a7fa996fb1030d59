"""The pages stay true: docs/ops.md is what the registry gives, and every snippet of docs/tutorial.md compiles, runs and
prints what stands below it."""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = pathlib.Path(os.environ["FLAME_SOURCE_DIR"]), pathlib.Path(os.environ["FLAME_BINARY_DIR"])


def snippets(page):
    """(line, code, what it prints or None) of each ```cpp block; a ```text block right after it is its output."""
    text = page.read_text()
    for m in re.finditer(r"^```cpp\n(.*?)^```\n(?:\n*^```text\n(.*?)^```\n)?", text, re.M | re.S):
        yield text[: m.start()].count("\n") + 1, m[1], m[2]


def compiler():
    """The compiler and flags that build the examples."""
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if entry["file"].endswith("examples/hello/main.cpp"):
            words = shlex.split(entry["command"])
            return words[: words.index("-o")]
    sys.exit("examples/hello is not built")


def program(code, line, page):
    """A snippet with a main() of its own stands as it is; any other is the body of one."""
    head = f'#include <flame/flame.h>\n#include <cstdio>\n#line {line + 1} "{page.name}"\n'
    if "int main(" in code:
        return head + code
    return head.replace("#line", "using namespace flame;\n#line", 1) + split(code)


def split(code):
    """Types and functions at the left margin stay outside main(), statements go inside."""
    outside, inside, depth, target = [], [], 0, None
    for row in code.splitlines():
        if depth == 0:
            starts = re.match(r"(struct|class|template|#include|using|// outside)\b", row) or re.match(r"[\w:<>&]+ \w+\(.*\) \{$", row)
            target = outside if starts else inside
        target.append(row)
        depth += row.count("{") - row.count("}")
    return "\n".join(outside) + "\nint main() {\n" + "\n".join(inside) + "\n}\n"


class Pages(unittest.TestCase):
    def test_op_reference_is_fresh(self):
        made, kept = (BUILD / "docs/ops.md").read_text(), (SOURCE / "docs/ops.md").read_text()
        self.assertEqual(made, kept, "docs/ops.md is stale: run `make docs`")

    def test_custom_kernels_quote_the_example(self):
        (_, code, _), = snippets(SOURCE / "docs/custom-kernels.md")
        self.assertEqual(code, (SOURCE / "examples/custom_kernel/main.cpp").read_text())
        ran = subprocess.run([BUILD / "examples/custom_kernel"], capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        if not ran.stdout.startswith("no GPU:"):
            for part in ("the gradient is right", "wrong.cu(2): error", "main.cpp:"):
                self.assertIn(part, ran.stdout)

    def test_tutorial_runs(self):
        page = SOURCE / "docs/tutorial.md"
        found = list(snippets(page))
        self.assertGreater(len(found), 8)
        link = [f"-L{BUILD}", "-lflame_core", f"-Wl,-rpath,{BUILD}"]
        for line, code, output in found:
            with self.subTest(line=line), tempfile.TemporaryDirectory() as folder:
                source = pathlib.Path(folder) / "snippet.cpp"
                source.write_text(program(code, line, page))
                built = subprocess.run([*compiler(), "-O0", "-o", source.with_suffix(""), source, *link], capture_output=True, text=True)
                self.assertEqual(built.returncode, 0, f"line {line}:\n{built.stderr}")
                ran = subprocess.run([source.with_suffix("")], cwd=folder, capture_output=True, text=True, timeout=120)
                self.assertEqual(ran.returncode, 0, f"line {line}:\n{ran.stdout}{ran.stderr}")
                if output is not None:
                    self.assertEqual(ran.stdout, output, f"line {line}")


if __name__ == "__main__":
    unittest.main(verbosity=2)

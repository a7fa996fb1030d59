"""The table and the picture of docs/performance.md from the rows of bench/compare."""
from html import escape

BEGIN, END = "<!-- bench/compare: table -->\n", "<!-- end of comparison -->\n"
COLOURS = {"flame": "#d9480f", "flame_eager": "#f4a261", "flame_repeat": "#a83206", "torch_eager": "#adb5bd", "torch_eager_graph": "#868e96",
           "torch_compile": "#4c6ef5", "torch_compile_max": "#3b5bdb", "torch_compile_graph": "#1c3fa8", "jax_jit": "#63c7a6",
           "jax_scan": "#2b8a6e"}


def by_workload(rows):
    """{workload: {system: {what: row}}}, in the order of the rows."""
    found = {}
    for r in rows:
        workload, _, of = r["workload"].partition(", ")
        what = "speed" if r["metric"] in ("throughput", "step_time") else " ".join(filter(None, [r["metric"], of]))
        found.setdefault(workload, {}).setdefault(r["system"], {})[what] = r
    return {workload: {s: of for s, of in systems.items() if "speed" in of} for workload, systems in found.items()}


def times_faster(row, than):
    """How many times as fast `row` is as `than`."""
    return speed_of(row) / speed_of(than)


def speed_of(row):
    return row["median"] if row["metric"] == "throughput" else 1 / row["median"]


def number(v):
    return f"{v:,.0f}" if v >= 1000 else f"{v:.3g}"


def table(rows):
    """`flame` beside each system: median, spread, how many times as fast FLAME is, memory, and how soon it is up to speed."""
    out = ("| workload | system | median (least to most) | FLAME's speed | peak GB (by NVML) | first step, cold (warm), s | "
           "up to speed, s |\n|---|---|---|---|---|---|---|\n")
    for workload, systems in by_workload(rows).items():
        ours = systems.get("flame", {}).get("speed")
        for system, of in systems.items():
            speed, get = of["speed"], lambda what: number(of[what]["median"]) if what in of else ""
            ratio = times_faster(ours, speed) if ours and system != "flame" else None
            ratio = "" if ratio is None else f"{ratio:.2f}x" if ratio >= 1 else f"**{ratio:.2f}x**"
            warm = f" ({get('first_step warm')})" if "first_step warm" in of else ""
            out += (f"| {workload} | {system} | {number(speed['median'])} {speed['unit']} ({number(speed['min'])} to "
                    f"{number(speed['max'])}) | {ratio} | {get('peak_memory')} ({get('peak_memory by NVML')}) | "
                    f"{get('first_step cold')}{warm} | {get('first_step settled')} |\n")
    return out


def about_table(about):
    """What each system computes in, and what it recorded; by the first loss all have the same weights and batch."""
    out = ("| workload | system | first loss | precision | weights | gradients | moments | residual stream | logits | recorded steps |\n"
           "|---|---|---|---|---|---|---|---|---|---|\n")
    for of in about:
        dtypes = (kind if isinstance(kind, str) else "/".join(kind) for kind in
                  (of["dtypes"][what] for what in ("weights", "gradients", "moments", "residual", "logits")))
        r = of.get("recorded", {})
        recorded = (f"{r['recordings']} recordings, {r['replays']} of {r['calls']} calls replayed, {r['misses']} misses"
                    + (f" (last: {r['last_miss']})" if r["last_miss"] else "")) if r.get("calls") else ""
        out += f"| {of['workload']} | {of['system']} | {of['first_loss']:.4f} | {of['precision']} | {' | '.join(dtypes)} | {recorded} |\n"
    return out


def picture(rows):
    """Bars: the speed of each system, the best peer's being 1, with marks from the slowest to the fastest turn."""
    groups, bar, gap, left, scale, width = by_workload(rows), 16, 26, 210, 300, 800
    y, body = 46, []
    for workload, systems in groups.items():
        peers = [of["speed"] for system, of in systems.items() if not system.startswith("flame")]
        unit = max(peers or [of["speed"] for of in systems.values()], key=speed_of)
        body.append(f'<text x="{left}" y="{y}" font-weight="bold">{escape(workload)}</text>')
        y += 8
        for system, of in systems.items():
            ratio = times_faster(of["speed"], unit)
            low, high = sorted(times_faster({**of["speed"], "median": of["speed"][end]}, unit) for end in ("min", "max"))
            shown = min(scale * ratio, width - left - 150)
            mark = "" if shown < scale * ratio else (f'<line x1="{left + scale * low:.1f}" x2="{left + scale * high:.1f}" '
                                                     f'y1="{y + bar / 2}" y2="{y + bar / 2}" stroke="#000"/>')
            body.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{system}</text>'
                        f'<rect x="{left}" y="{y + 1}" width="{shown:.1f}" height="{bar - 2}" fill="{COLOURS[system]}"/>{mark}'
                        f'<text x="{left + shown + 6:.1f}" y="{y + 12}">{ratio:.2f}: {number(of["speed"]["median"])} '
                        f'{of["speed"]["unit"]}</text>')
            y += bar
        y += gap
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
            'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" font-size="12" fill="#333">\n'
            '<rect width="100%" height="100%" fill="#fff"/>\n<text x="16" y="22" font-size="14">Training steps: speed, that of '
            'the best peer being 1</text>\n' + "\n".join(body) + "\n</svg>\n")


HEAD = """
## Against PyTorch and JAX

`bench/compare` lets FLAME (`flame`: recorded steps; `flame_eager`: the same function, not recorded; `flame_repeat`: 50 steps a launch) and its peers train in turn on one
GPU, each in a process of its own, with the same weights, batches, precision and AdamW, a fresh batch from the GPU's memory every step. Memory
is the allocator's peak and, in brackets, the process's by NVML; the first step counts from exec with empty caches (in brackets: filled ones);
up to speed is when the median of ten steps is within 5 % of the last. The second table says what each computes in (`flame_repeat`
draws the same samples in another order). `--curves` shows that
the losses of 50 steps in float32 are PyTorch's within noise, `--deviation` that the gradients and logits are no farther from float32 than PyTorch's.
`bench/results/compare-h100.json` has the figures:

![Speed of training steps](images/compare.svg)

"""


def write(root, rows, about):
    """The picture, and the section of the page, which the first record makes."""
    (root / "docs/images/compare.svg").write_text(picture(rows))
    page = root / "docs/performance.md"
    text = page.read_text()
    if BEGIN not in text:
        text += HEAD + BEGIN + END
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(text[:begin] + table(rows) + "\n" + about_table(about) + text[end:])

"""Writes the small pictures of tests/files/images and their pixels (contents.json). PNG files are put together here,
every colour type, depth and interlacing from known samples; JPEG files by Pillow, whose own decoding is the expectation.
Run as: /path/with/numpy/and/pillow/bin/python tools/image_fixtures.py"""
import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/files/images"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows(samples, depth):
    """Filter type 0 and the packed samples of each row of [h, w, c]."""
    out = b""
    for row in samples:
        flat = row.reshape(-1)
        if depth == 16:
            packed = flat.astype(">u2").tobytes()
        else:
            bits = np.unpackbits(flat.astype(np.uint8)[:, None], axis=1)[:, 8 - depth:]
            packed = np.packbits(bits.reshape(-1)).tobytes()
        out += b"\0" + packed
    return out


def png(samples, colour, depth, interlaced=False, extra=b""):
    h, w, _ = samples.shape
    if interlaced:
        parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES]
        data = b"".join(rows(p, depth) for p in parts if p.size)
    else:
        data = rows(samples, depth)
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data, 9)) +
            chunk(b"IEND", b""))


FOLDER.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(5)
contents = {}


def keep(name, data, pixels):
    (FOLDER / name).write_bytes(data)
    contents[name] = {"shape": list(pixels.shape), "data": pixels.reshape(-1).tolist()}


for colour, depths in DEPTHS.items():
    for depth in depths:
        for interlaced in (False, True):
            top = 2**depth - 1
            count = min(top + 1, 20)
            samples = random.integers(0, count if colour == 3 else top + 1, (7, 9, CHANNELS[colour]))
            name = f"c{colour}d{depth}{'i' if interlaced else ''}"
            if colour == 3:
                palette = random.integers(0, 256, (count, 3)).astype(np.uint8)
                keep(name + ".png", png(samples, colour, depth, interlaced, chunk(b"PLTE", palette.tobytes())),
                     palette[samples[..., 0]])
                alpha = random.integers(0, 256, (count, 1)).astype(np.uint8)
                extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", alpha.tobytes())
                keep(name + "t.png", png(samples, colour, depth, interlaced, extra),
                     np.concatenate([palette, alpha], 1)[samples[..., 0]])
            else:
                keep(name + ".png", png(samples, colour, depth, interlaced),
                     (samples * 255 * 2 + top) // (2 * top))  # rounded to nearest

y, x = np.mgrid[0:13, 0:18]
smooth = np.stack([x * 14, y * 19, (x + y) * 8], -1).clip(0, 255).astype(np.uint8)
for name, image, options in (("grey", Image.fromarray(smooth[..., 0]), {}),
                             ("colour444", Image.fromarray(smooth), {"subsampling": 0}),
                             ("colour420", Image.fromarray(smooth), {"subsampling": 2}),
                             ("progressive", Image.fromarray(smooth), {"progressive": True})):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    pixels = np.array(Image.open(io.BytesIO(out.getvalue())))
    keep(name + ".jpg", out.getvalue(), pixels if pixels.ndim == 3 else pixels[..., None])
out = io.BytesIO()
Image.fromarray(np.zeros((4, 4, 4), np.uint8), "CMYK").save(out, "JPEG")
(FOLDER / "refused_cmyk.jpg").write_bytes(out.getvalue())
(FOLDER / "contents.json").write_text(json.dumps(contents) + "\n")

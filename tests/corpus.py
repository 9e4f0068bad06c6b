"""About forty files that are no good as pictures, and some that are odd and good: made here, by code.

`BAD` and `GOOD` are {file name: its bytes}; `write` puts them, some links and a pipe into class folders.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def pixels(seed: int = 0, size: tuple[int, int] = (24, 24)) -> np.ndarray:
    """A smooth coloured picture (height, width, 3), another for each seed."""
    random = np.random.RandomState(seed)
    coarse = Image.fromarray(random.randint(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def encoded(seed: int = 0, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """One such picture as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _cut(data: bytes, percent: int) -> bytes:
    return data[: len(data) * percent // 100]


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of hand-made chunks."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in (head, *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def _flipped(data: bytes, place: float) -> bytes:
    changed = bytearray(data)
    changed[int(len(data) * place)] ^= 0xFF
    return bytes(changed)


def _resized_jpeg(height: int, width: int) -> bytes:
    """A small JPEG whose header promises another size."""
    data = bytearray(encoded(1, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _not_finite() -> bytes:
    values = pixels(2)[:, :, 0].astype(np.float32)
    values[3, 3] = np.nan
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../escaped.png", encoded(3))
    return stream.getvalue()


class _Canary:
    """Unpickling it would leave a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (f"unpickled-{os.getpid()}",)


def _animation() -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(pixels(seed)) for seed in (4, 5, 6))
    first.save(stream, "GIF", save_all=True, append_images=others)
    return stream.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(7, "JPEG", exif=exif)


def _text_bomb() -> bytes:
    return _png(8, 8, (b"zTXt", b"note\0\0" + zlib.compress(bytes(100_000_000))), (b"IDAT", b""))


_HUGE = 20_000

BAD: dict[str, bytes] = {
    "empty.jpg": b"",
    "text.jpg": b"not a picture at all\n",
    "page.png": b"<!doctype html><title>404 not found</title>",
    "nulls.png": bytes(4096),
    "noise.webp": np.random.RandomState(0).bytes(4096),
    **{f"cut-{percent}.jpg": _cut(encoded(10, "JPEG"), percent) for percent in (10, 30, 50, 70, 90)},
    **{f"cut-{percent}.png": _cut(encoded(11), percent) for percent in (10, 30, 50, 70, 90)},
    "cut.webp": _cut(encoded(12, "WEBP", lossless=True), 60),
    "cut.gif": _cut(encoded(13, "GIF"), 60),
    "cut.tiff": _cut(encoded(14, "TIFF"), 60),
    "cut.bmp": _cut(encoded(15, "BMP"), 60),
    "cut.ppm": _cut(encoded(16, "PPM"), 60),
    "flipped.png": _flipped(encoded(17), 0.5),
    "start.jpg": b"\xff\xd8\xff",
    "start.png": b"\x89PNG\r\n\x1a\n",
    "no-pixels.png": _png(8, 8),
    "no-width.png": _png(0, 8, (b"IDAT", zlib.compress(b""))),
    "bomb.png": _png(_HUGE, _HUGE, (b"IDAT", zlib.compress(bytes(_HUGE * (_HUGE // 8 + 1)), 1)), depth=1, colour=0),
    "large.jpg": _resized_jpeg(14_000, 14_400),
    "text-bomb.png": _text_bomb(),
    "nan.tiff": _not_finite(),
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "document.png": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n",
    "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "archive.jpg": _zip(),
    "pickle.jpg": pickle.dumps(_Canary()),
    "icon.jpg": encoded(18, "ICO"),
    "layers.png": b"8BPS\0\1" + bytes(64),
    "film.jpg": b"\0\0\0\x18ftypmp42" + bytes(64),
    "phone.jpg": b"\0\0\0\x18ftypheic" + bytes(64),
    "labels.json": b'{"cat": 0}',
    "notes.txt": b"taken in May",
}

GOOD: dict[str, bytes] = {
    "gray.png": encoded(20, mode="L"),
    "bits.png": encoded(21, mode="1"),
    "palette.gif": encoded(22, "GIF", mode="P"),
    "clear.png": encoded(23, mode="RGBA"),
    "print.jpg": encoded(24, "JPEG", mode="CMYK"),
    "turned.jpg": _turned(),
    "moving.gif": _animation(),
    "no-suffix": encoded(25),
    "wrong-suffix.jpg": encoded(26, "PNG"),
    "LOUD.JPG": encoded(27, "JPEG"),
    "new\nline.png": encoded(28),
    "\N{CAT FACE} <b>&amp;\u202e.png": encoded(29),
    "tagged.png": encoded(30, pnginfo=PngImagePlugin.PngInfo()),
}


def write(root: Path) -> Path:
    """cat/ and dog/ below `root`: eight plain pictures each, the good ones in dog, the bad ones in cat."""
    for label, first in (("cat", 100), ("dog", 200)):
        (root / label).mkdir(parents=True)
        for seed in range(first, first + 8):
            (root / label / f"{seed}.png").write_bytes(encoded(seed))
    for name, data in GOOD.items():
        (root / "dog" / name).write_bytes(data)
    for name, data in BAD.items():
        (root / "cat" / name).write_bytes(data)
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "round.png").symlink_to("round.png")
    (root / "cat" / "again").symlink_to("..", target_is_directory=True)
    os.mkfifo(root / "cat" / "pipe.png")
    return root


LINKS = {"gone.png", "round.png", "again", "pipe.png"}
"""What `write` adds to the bad files of cat."""

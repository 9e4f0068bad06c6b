"""One picture, as a file or as bytes, to one uint8 array. Nothing else in vitreous opens a picture.

Accepted: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, told by content and not by suffix. Every picture is decoded to its
last byte, so a truncated file is found here and not in the middle of training. Orientation follows EXIF; transparency
is laid on white; of an animation the first frame counts. 16-bit samples are scaled down to 8; floating-point pictures
are taken as 0..1 when all their values are, else as 0..255.

A JPEG without anything odd about it goes straight to libjpeg-turbo, which Pillow asks too: the pixels are the same, and
a small picture takes a fifth of the time. About everything else, damaged ones included, Pillow decides.

Shapes: H W pixels, C channels (1 gray, 3 red green blue).
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Files up to so many bytes are read whole before anything looks at them, which is the fastest way for small ones.
_WHOLE = 1 << 23
_WHOLE_TO_PEEK = 1 << 16

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GRAY = {"1", "L", "LA", "La", "F", *_DEEP}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_FRAMES = {"GIF", "WEBP", "PNG", "TIFF"}  # not MPO: a phone's second picture is no animation
_TURNED = (b"Exif\0\0", b"tiff:Orientation")  # without either, no JPEG says that it must be turned

DECODERS = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"
"""Which programs decide the pixels."""

Channels = Literal[1, 3]


@dataclass(frozen=True, slots=True)
class Span:
    """A picture inside a larger file: `length` bytes from `start`."""

    path: Path
    start: int
    length: int


Source = Path | Span | bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded; height and width are as stored, before EXIF."""

    height: int
    width: int
    gray: bool
    format: str


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's own warnings (odd metadata, large pictures) from the user: `decode` accepts or refuses, aloud."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _too_large(width: int, height: int) -> ValueError:
    return ValueError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels")


def _bytes(path: Path, start: int, length: int) -> bytes:
    """A part of a file, by the system's own calls: Python's streams cost a small picture as much as decoding does."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        if start:
            os.lseek(file, start, os.SEEK_SET)
        data = os.read(file, length)
        while len(data) < length and (more := os.read(file, length - len(data))):
            data += more
        return data
    finally:
        os.close(file)


def encoded(source: Source, whole: int | None = None) -> bytes | Path:
    """The bytes of a source, or the path of a file with more than `whole`. ValueError for what cannot be read."""
    if isinstance(source, bytes):
        return source
    path = source if isinstance(source, Path) else source.path
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block for ever
            raise ValueError("not a regular file")
        if not isinstance(source, Path):
            return _bytes(path, source.start, source.length)
        return path if whole is not None and status.st_size > whole else _bytes(path, 0, status.st_size)
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _open(source: Source, whole: int = _WHOLE) -> Image.Image:
    """The picture behind its header, nothing decoded yet."""
    data = encoded(source, whole)
    if data == b"":
        raise ValueError("empty file")
    try:
        image = Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"more than the limit of {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise ValueError("not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM picture") from None
    except MemoryError:
        raise
    except Exception as error:  # a broken header can raise anything at all out of a format's parser
        raise ValueError(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(image.width, image.height)
    return image


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"cannot be decoded: {text[:120]}"


def peek(source: Source) -> Header:
    """Read the header alone. ValueError with a short reason for what is no picture, or too large."""
    with _open(source, _WHOLE_TO_PEEK) as image:
        return Header(image.height, image.width, image.mode in _GRAY, image.format or "")


def _turn(image: Image.Image) -> None:
    """Turn a decoded picture as EXIF says, in place; with damaged EXIF the pixels stay as they are."""
    try:
        ImageOps.exif_transpose(image, in_place=True)  # the other form copies every picture, turned or not
    except MemoryError:
        raise
    except Exception:
        return


def _eight_bit(image: Image.Image) -> Image.Image:
    """Modes with more than 8 bits to L."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ValueError("holds NaN or infinite values")
        if values.min() >= 0 and values.max() <= 1:
            values = values * 255
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    wide = np.clip(values.astype(np.int64), 0, 65535)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _flat(image: Image.Image) -> Image.Image:
    """Any mode to L or RGB, transparency laid on white."""
    gray = image.mode in _GRAY
    if image.mode == "F" or image.mode in _DEEP:
        return _eight_bit(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if gray else "RGB")
    return image.convert("L") if gray and image.mode == "RGB" else image


def _plain_jpeg(data: bytes, channels: Channels | None) -> tuple[np.ndarray, bool] | None:
    """(pixels (H, W, C), is it gray) of a JPEG that is whole and as usual; None for what Pillow has to look at."""
    if not data.startswith(b"\xff\xd8\xff") or any(sign in data for sign in _TURNED):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        gray = space == "Gray"
        if not (gray or (space == "YCbCr" and channels != 1)) or height * width > MAX_PIXELS:
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "GRAY" if gray and channels != 3 else "RGB")
    except ValueError:  # of damage of any kind, that too which Pillow would pass over
        return None
    return pixels, gray


def read(source: Source, channels: Channels | None) -> tuple[np.ndarray, bool, bool]:
    """(pixels (H, W, C) perhaps read-only, is it gray, is it animated): `decode` for whoever decodes many.

    Pillow's warnings are the caller's to silence, with `quiet`, once for all pictures.
    """
    data = encoded(source, _WHOLE)
    plain = _plain_jpeg(data, channels) if isinstance(data, bytes) else None
    if plain is not None:
        return (*plain, False)
    with _open(data) as image:
        try:
            animated = image.format in _FRAMES and bool(getattr(image, "is_animated", False))
            image.load()
            gray = image.mode in _GRAY
            _turn(image)
            flat = _flat(image)
            mode = flat.mode if channels is None else ("L" if channels == 1 else "RGB")
            pixels = np.asarray(flat if flat.mode == mode else flat.convert(mode))
        except MemoryError:
            raise
        except Exception as error:  # as in _open: damaged data, any exception
            raise ValueError(
                str(error) if type(error) is ValueError and "NaN" in str(error) else _reason(error)
            ) from error
    return (pixels[:, :, None] if pixels.ndim == 2 else pixels), gray, animated


def decode(source: Source, channels: Channels | None = 3) -> np.ndarray:
    """Decode one picture -> uint8 (H, W, C).

    channels: 1 or 3 converts to that; None keeps 1 for a gray picture and 3 for any other. Raises ValueError with a
    short reason (and no path, since the caller knows it) for a file that is no picture, that is damaged anywhere, or
    whose header promises more than 100 megapixels; the last before any memory is taken.
    """
    if channels not in (1, 3, None):
        raise ValueError(f"channels={channels!r}: take 1, 3 or None")
    with quiet():
        return np.array(read(source, channels)[0])


def fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Picture (H, W, C) -> uint8 (H', W', C), size = (H', W'): short side resized (bicubic, antialiased), centre kept.

    Only the part that is kept is resized: a picture one pixel high and a million wide costs nothing. A picture that
    has the size already comes back as it is.
    """
    height, width, channels = picture.shape
    rows, columns = size
    if (height, width) == (rows, columns):
        return picture
    scale = max(rows / height, columns / width)
    kept_height, kept_width = min(rows / scale, height), min(columns / scale, width)
    top, left = (height - kept_height) / 2, (width - kept_width) / 2
    box = (left, top, min(left + kept_width, width), min(top + kept_height, height))
    image = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if channels == 1 else picture))
    resized = np.array(image.resize((columns, rows), Image.Resampling.BICUBIC, box=box))
    return resized[:, :, None] if channels == 1 else resized

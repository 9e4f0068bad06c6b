"""One picture to one array: modes, orientation, damage, bombs."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitreous.data import decode, fit


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int = 12, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(noise()), kind, **options)), noise())


def test_a_path_and_its_bytes_decode_alike(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise()), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "a.jpg"), decode(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_come_out_as_pillow_converts_them(mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    assert np.abs(decode(encoded(image, kind)).astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    alpha = np.linspace(0, 255, 120).reshape(12, 10).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    samples = np.asarray(image, dtype=float)
    colour = samples[:, :, :3] if mode == "RGBA" else samples[:, :, :1]
    expected = colour * alpha[:, :, None] / 255.0 + 255 - alpha[:, :, None]
    assert np.abs(decode(encoded(image)) - expected).max() <= 2


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    pixels = decode(encoded(image, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [0, 255, 0]


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.linspace(0, 65535, 120).reshape(12, 10).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(deep)), channels=None)
    assert pixels.shape == (12, 10, 1)
    assert np.abs(pixels[:, :, 0] - deep / 257).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_are_read_as_unit_range_or_as_bytes(top: float) -> None:
    values = np.linspace(0, top, 120, dtype=np.float32).reshape(12, 10)
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), channels=1)
    assert np.abs(pixels[:, :, 0] - values * (255 / top)).max() <= 1


def test_floats_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        decode(encoded(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_show_the_same_picture(orientation: int) -> None:
    upright = noise(12, 10)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    np.testing.assert_array_equal(decode(encoded(stored, "PNG", exif=exif)), upright)


def by_pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def smooth(height: int, width: int) -> Image.Image:
    """Like a photograph: noise that was enlarged."""
    return Image.fromarray(noise(5, 4)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (32, 32), (203, 150)])
@pytest.mark.parametrize(
    "options", [{}, {"quality": 20}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"optimize": True}]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_short_way_through_a_jpeg_gives_the_pixels_that_pillow_gives(
    size: tuple[int, int], options: dict[str, object], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(smooth(*size).convert(mode), "JPEG", **options)
    expected = {channels: by_pillow(data, "L" if channels == 1 else "RGB") for channels in (1, 3)}
    expected[None] = by_pillow(data, mode)
    np.testing.assert_array_equal(decode(data, channels=1), expected[1])
    monkeypatch.setattr(Image, "open", None)  # a JPEG as usual never gets there
    np.testing.assert_array_equal(decode(data, channels=3), expected[3])
    np.testing.assert_array_equal(decode(data, channels=None), expected[None])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("said_in", ["exif", "xmp"])
def test_a_jpeg_is_turned_as_it_says(orientation: int, said_in: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    data = encoded(smooth(12, 10), "JPEG", **({"exif": exif} if said_in == "exif" else {"xmp": xmp}))
    np.testing.assert_array_equal(decode(data), by_pillow(data))
    assert decode(data).shape == ((12, 10, 3) if orientation < 5 else (10, 12, 3))


def test_a_jpeg_of_other_colours_is_left_to_pillow() -> None:
    for data in (
        encoded(smooth(12, 10).convert("CMYK"), "JPEG"),
        encoded(smooth(12, 10), "JPEG", keep_rgb=True),
    ):
        np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_damage_that_pillow_passes_over_is_passed_over() -> None:
    data = bytearray(encoded(smooth(64, 64), "JPEG", quality=95))
    data[-200:-190] = b"\xff\xd3" * 5  # markers that belong elsewhere: libjpeg warns and goes on
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_pillow(bytes(data))
    np.testing.assert_array_equal(decode(bytes(data)), expected)


def test_channels_none_keeps_gray_gray_and_colour_coloured() -> None:
    assert decode(encoded(Image.fromarray(noise()).convert("L")), channels=None).shape == (12, 10, 1)
    assert decode(encoded(Image.fromarray(noise())), channels=None).shape == (12, 10, 3)
    assert decode(encoded(Image.fromarray(noise())), channels=1).shape == (12, 10, 1)
    with pytest.raises(ValueError, match="channels=2"):
        decode(encoded(Image.fromarray(noise())), channels=2)  # type: ignore[arg-type]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("percent", range(10, 100, 20))
def test_a_file_cut_anywhere_is_refused(kind: str, percent: int) -> None:
    data = encoded(Image.fromarray(noise(60, 60)), kind)
    with pytest.raises(ValueError):  # noqa: PT011 - the reason is the codec's
        decode(data[: len(data) * percent // 100])


@pytest.mark.parametrize("data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"<svg/>", bytes(1000)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a JPEG|empty file"):
        decode(data)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(ValueError, match="not a regular file"):
        decode(tmp_path)


@pytest.mark.parametrize("sides", [(10_001, 10_000), (20_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="limit of 100 megapixels"):
        decode(png_header(*sides))


def test_pillows_warnings_do_not_reach_the_user_nor_stay_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode(png_header(9_500, 9_500))
        assert caught == []
        before = list(warnings.filters)
    assert not any(getattr(each[3], "pattern", None) == r"PIL\." for each in before)


def test_fit_is_the_identity_at_the_size_already() -> None:
    picture = noise(12, 10)
    assert fit(picture, (12, 10)) is picture


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (7, 9), (32, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fit_gives_the_size_asked_for(shape: tuple[int, int], channels: int) -> None:
    picture = noise(*shape)[:, :, :channels]
    assert fit(picture, (24, 16)).shape == (24, 16, channels)
    assert fit(picture, (24, 16)).dtype == np.uint8


def test_fit_keeps_the_centre() -> None:
    picture = np.zeros((40, 120, 3), dtype=np.uint8)
    picture[:, 40:80] = 255  # the middle third is what a square crop keeps
    assert fit(picture, (20, 20))[:, 1:-1].min() >= 250


def test_fit_takes_no_memory_for_what_it_cuts_off() -> None:
    assert fit(np.zeros((1, 3_000_000, 3), dtype=np.uint8), (96, 96)).shape == (96, 96, 3)

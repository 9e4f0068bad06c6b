"""From a request to one picture: the raw body, or the one file of a form, within limits. Nothing is written to disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from vitreous.classifier import Classifier
from vitreous.data.decode import peek

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 50_000_000
"""Of a picture before it is fitted: a decoded one takes up to 4 bytes a pixel, and one is decoded at a time."""


async def picture_bytes(request: Request, most: int = MOST_BYTES) -> bytes:
    """The encoded picture of a request. Raises HTTPException 400 or 413 for what holds none, several, or too much."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_large(most)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large(most)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        return await _only_file(request, bytes(body), most)
    if not body:
        raise HTTPException(400, "the body is empty: send one picture, as it is or as the file 'image' of a form")
    return bytes(body)


def too_large(most: int) -> HTTPException:
    """413: the rest of the body is not waited for."""
    return HTTPException(413, f"more than the limit of {most} bytes: send a smaller picture")


async def _only_file(request: Request, body: bytes, most: int) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=0)
    parser.spool_max_size = most  # the body is in memory already: no copy of it on disk
    try:
        form = await parser.parse()
    except MultiPartException as problem:
        raise HTTPException(400, f"the form cannot be read: {problem.message}") from None
    except (ValueError, KeyError, UnicodeError) as problem:  # a boundary or a header that cannot be
        raise HTTPException(400, f"the form cannot be read: {str(problem)[:120]}") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(400, "the form holds no picture: send one as the file 'image'")
    try:
        return await files[0].read()
    finally:
        await files[0].close()


def read(classifier: Classifier, encoded: bytes) -> Tensor:
    """One picture as the classifier reads it, uint8 (C, S, S). Raises ValueError for what is no picture, or too big."""
    header = peek(encoded)
    if header.height * header.width > MOST_PIXELS:
        raise ValueError(
            f"{header.width} x {header.height} pixels, more than the limit of {MOST_PIXELS // 10**6} megapixels here"
        )
    return classifier.read(encoded)

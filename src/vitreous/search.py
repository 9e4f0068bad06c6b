"""The pictures most like one: by the cosine of the vectors that the head reads, drawn on a sheet with their figures.

Every vector is compared, a batch at a time, so memory does not grow with their number and nothing has to be built
first. Why there is no index is in docs/predict.md.

Shapes: B vectors, D their width, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitreous.classifier import Classifier
from vitreous.data import Images, decode, fit, listed
from vitreous.evaluate import run_images
from vitreous.pictures import FAINT, INK, RIGHT, blank, save, shorten, upright
from vitreous.predict import Watch, answers, made_by
from vitreous.runs import place

BATCH = 16384
"""Vectors of a table that are compared at a time."""
MOST = 99
"""Pictures on one sheet beside the query."""


@dataclass(frozen=True)
class Neighbour:
    """A picture that was found: where it is, the cosine of the angle to the query, and its class."""

    image: str
    similarity: float
    label: str
    """The true class of a training picture, else the predicted one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return vars(self)


@dataclass(frozen=True)
class Found:
    """What :func:`search` found, the nearest first."""

    query: str
    label: str
    """The query's predicted class."""
    neighbours: tuple[Neighbour, ...]
    compared: int
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        neighbours = [neighbour.to_json() for neighbour in self.neighbours]
        return {**vars(self), "neighbours": neighbours, "picture": str(self.picture)}


@dataclass(frozen=True, eq=False)
class Vectors:
    """Some of the pictures that are searched."""

    names: list[str]
    labels: list[str]
    features: np.ndarray
    """float32 (B, D)."""


def search(
    run: Path,
    query: Path,
    among: str | None = None,
    *,
    n: int = 9,
    out: Path | None = None,
    data_root: Path | None = None,
    watch: Watch | None = None,
) -> Found:
    """The ``n`` pictures, other than itself, most like ``query`` to the classifier of ``run``, drawn into ``out``.

    ``among`` is a table of ``predict --embed``, or a folder, pattern or list, whose pictures are read now; without it
    the run's training pictures. Raises ValueError for a table of other weights or without features.
    """
    if not 1 <= n <= MOST:
        raise ValueError(f"{n} pictures on a sheet: ask for 1 to {MOST}")
    images: Images | None = None
    if among is None:
        classifier, images, _ = run_images(run, "train", data_root)
        batches = training_vectors(classifier, images)
    else:
        classifier = Classifier.load(run)
        batches = (table_vectors if among.endswith(".parquet") else file_vectors)(classifier, among, watch)
    features, scores = classifier.features_and_logits(classifier.read(query)[None])
    found, compared = nearest(features[0].numpy(), batches, n + 1)
    neighbours = tuple(each for each in found if Path(each.image).absolute() != query.absolute())[:n]
    label = classifier.ranked(scores, 1)[0].label
    tiles = [Tile(picture_of(str(query)), f"query: {label}", str(query))]
    for each in neighbours:
        pixels = upright(images.pixels[images.ids.index(each.image)]) if images is not None else picture_of(each.image)
        tiles.append(Tile(pixels, f"{each.similarity:.3f} {each.label}", each.image))
    picture = sheet(tiles, out or place(run) / "search.png")
    return Found(str(query), label, neighbours, compared, picture)


def nearest(query: np.ndarray, batches: Iterable[Vectors], n: int) -> tuple[list[Neighbour], int]:
    """The ``n`` vectors of the largest cosine to ``query`` (D,), and how many were compared; the earlier of two alike.

    Raises ValueError where there is none to compare with.
    """
    best: list[Neighbour] = []
    compared = 0
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    for some in batches:
        cosines = some.features @ query / np.maximum(np.linalg.norm(some.features, axis=1), 1e-12)
        first = np.argsort(-cosines, kind="stable")[:n].tolist()
        best += [Neighbour(some.names[i], float(cosines[i]), some.labels[i]) for i in first]
        best = sorted(best, key=lambda each: -each.similarity)[:n]
        compared += len(cosines)
    if not best:
        raise ValueError("none of the pictures to search could be read")
    return best, compared


def training_vectors(classifier: Classifier, images: Images, batch: int = 250) -> Iterator[Vectors]:
    """The features of pictures in memory, with their true classes."""
    for start in range(0, len(images), batch):
        some = slice(start, start + batch)
        features, _ = classifier.features_and_logits(images.pixels[some])
        labels = [images.classes[label] for label in images.labels[some].tolist()]
        yield Vectors(list(images.ids[some]), labels, features.numpy())


def file_vectors(classifier: Classifier, source: str, watch: Watch | None) -> Iterator[Vectors]:
    """The features of the pictures that ``source`` means; those that cannot be read are passed over."""
    names = list(listed([source]))
    done = 0
    for each in answers(classifier, names, top=1, embed=True):
        assert each.features is not None
        good = [place for place, row in enumerate(each.rows) if "label" in row]
        rows = [each.rows[place] for place in good]
        yield Vectors([row["image"] for row in rows], [row["label"] for row in rows], each.features[good])
        done += len(each.rows)
        if watch:
            watch(done, len(names))


def table_vectors(classifier: Classifier, source: str, watch: Watch | None) -> Iterator[Vectors]:
    """The features of a table that ``predict --embed`` wrote with the same weights."""
    try:
        table = pq.ParquetFile(source)
    except pa.ArrowInvalid as problem:
        raise ValueError(f"{source} is no Parquet table: {problem}") from None
    with table:
        if "embedding" not in table.schema_arrow.names:
            raise ValueError(f"{source} has no features: make them with vitreous predict RUN FOLDER --out FILE --embed")
        weights, own = made_by(table.schema_arrow).get("weights"), classifier.fingerprint()
        if weights != own:
            raise ValueError(f"{source} has features of other weights ({weights}, not {own}): make them anew with RUN")
        done = 0
        for batch in table.iter_batches(BATCH, columns=["image", "label", "embedding"]):
            done += len(batch)
            some = batch.filter(batch["embedding"].is_valid())
            features = some["embedding"].flatten().to_numpy().reshape(len(some), classifier.width)
            yield Vectors(some["image"].to_pylist(), some["label"].to_pylist(), features)
            if watch:
                watch(done, table.metadata.num_rows)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of the sheet; ``pixels`` uint8 (H, W, 3), None where it can no longer be read."""

    pixels: np.ndarray | None
    title: str
    name: str


TILE = 256
"""Pixels to which the shorter side of a larger picture is brought."""
COLUMNS = 5
SIDE, GAP, TITLE = 1.5, 0.2, 0.5
"""Inches: a picture's side, the space around it, above it."""


def picture_of(name: str) -> np.ndarray | None:
    """The middle of a picture file as a square, uint8 (S, S, 3); None where it cannot be read."""
    try:
        pixels = decode(Path(name))
    except (ValueError, OSError):
        return None
    side = min(TILE, *pixels.shape[:2])
    return fit(pixels, (side, side))


def sheet(tiles: list[Tile], path: Path) -> Path:
    """Draws pictures row by row, the first of them framed, each under its title and its file's name. PNG."""
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = GAP + columns * (SIDE + GAP), GAP + rows * (SIDE + TITLE)
    figure = blank(width, height)
    for number, tile in enumerate(tiles):
        left = GAP + (number % columns) * (SIDE + GAP)
        bottom = height - (number // columns + 1) * (SIDE + TITLE)
        axes = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=number == 0, color=RIGHT, linewidth=3)
        if tile.pixels is not None:
            axes.imshow(tile.pixels)
        else:
            axes.text(0.5, 0.5, "cannot be read", color=FAINT, fontsize=8, ha="center")
        for text, colour, above in ((tile.title, INK, 0.24), (Path(tile.name).name, FAINT, 0.08)):
            place = (left / width, (bottom + SIDE + above) / height)
            figure.text(*place, shorten(text, 22), color=colour, fontsize=8, parse_math=False)
    return save(figure, path)

"""The sets that have a name: digits (embedded in scikit-learn), CIFAR-10 and -100, MNIST and Fashion-MNIST.

They are read from their published files (binary records in a tar.gz, IDX in gz), whose SHA-256 is checked first and
which run no code when read; nothing is unpacked to disk. `find` says where a set is on this machine.
"""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitreous.data import cache as store
from vitreous.data.decode import fit
from vitreous.data.fetch import Remote, check, fetch, locate
from vitreous.data.images import Images, Parts, Sizes
from vitreous.data.plan import check_size
from vitreous.data.splits import needed, split

_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_TRAIN_X, _TRAIN_Y = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
_TEST_X, _TEST_Y = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
_IDX_SPLITS = {"train": (0, 1), "test": (2, 3)}  # places in Named.files
EMBEDDED = ("digits", "shapes", "digits-clutter")  # need no file; the last two are drawn by shapes.py
_DIGITS_TEST = 0.2  # scikit-learn's set has no test split of its own


@dataclass(frozen=True)
class Named:
    """A known set: what results call it, its published files, its classes (() when the files name them)."""

    title: str
    files: tuple[Remote, ...]
    classes: tuple[str, ...]
    folders: tuple[str, ...]  # names its folder goes by under a data root, originals first


NAMED = {
    "cifar10": Named(
        "CIFAR-10",
        (
            Remote(
                "cifar-10-binary.tar.gz",
                _KRIZ,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170_052_171,
            ),
        ),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ("cifar10", "cifar-10", "cifar10-jpeg"),
    ),
    "cifar100": Named(
        "CIFAR-100",
        (
            Remote(
                "cifar-100-binary.tar.gz",
                _KRIZ,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                168_513_733,
            ),
        ),
        (),
        ("cifar100", "cifar-100", "cifar100-jpeg"),
    ),
    "mnist": Named(
        "MNIST",
        (
            Remote(_TRAIN_X, _MNIST, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
            Remote(_TRAIN_Y, _MNIST, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
            Remote(_TEST_X, _MNIST, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
            Remote(_TEST_Y, _MNIST, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
        ),
        tuple("0123456789"),
        ("mnist", "MNIST/raw"),
    ),
    "fashion-mnist": Named(
        "Fashion-MNIST",
        (
            Remote(_TRAIN_X, _FASHION, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880),
            Remote(_TRAIN_Y, _FASHION, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
            Remote(_TEST_X, _FASHION, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102),
            Remote(_TEST_Y, _FASHION, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
        ),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    ),
}


def name_of(source: str) -> str | None:
    """The set that `source` names, hyphens, underscores and case aside ("CIFAR-10" is cifar10); None for no set."""
    plain = source.lower().replace("-", "").replace("_", "")
    return next((name for name in (*EMBEDDED, *NAMED) if name.replace("-", "") == plain), None)


def known(folder: str) -> Named | None:
    """The well-known set a folder of this name holds, if any."""
    return next((named for named in NAMED.values() if folder.lower() in named.folders), None)


def _roots(data_root: Path | None) -> list[Path]:
    """The folder the user keeps data sets in, if one is said; ValueError when it is not there."""
    said = data_root or (Path(os.environ["VITREOUS_DATA"]) if os.environ.get("VITREOUS_DATA") else None)
    if said is None:
        return []
    if not said.is_dir():
        origin = "--data-root" if data_root else "VITREOUS_DATA"
        raise ValueError(f"{origin} is {said}, which is not a folder; name the folder that holds your data sets")
    return [said]


def find(name: str, data_root: Path | None, cache: Path | None) -> Path | list[Path]:
    """A folder to read as any other folder, or the set's published files, fetched as the last resort.

    Looks below data_root (else $VITREOUS_DATA) and in the cache. ValueError, in two lines, when it is nowhere and
    cannot be fetched.
    """
    named = NAMED[name]
    kept = store.folder(cache) / "datasets" / name
    roots = _roots(data_root)
    for root in roots:
        for folder in [root / each for each in named.folders]:
            published = locate(named.files, [folder])
            if published:
                return published
            if folder.is_dir() and any(folder.iterdir()):
                return folder
        published = locate(named.files, [root]) if len(named.files) == 1 else None
        if published:
            return published
    published = locate(named.files, [kept])
    if published:
        return published
    try:
        return [fetch(remote, kept) for remote in named.files]
    except OSError as error:
        names = ", ".join(remote.name for remote in named.files)
        place = roots[0] / name if roots else kept
        raise ValueError(
            f"{name} is not on this machine and could not be fetched from {named.files[0].base} ({error}).\n"
            f"Put {names} into {place}{'' if roots else ' (or name a folder of data sets with --data-root)'}."
        ) from None


def read_named(name: str, files: Sequence[Path], wanted: set[str], size: int | None) -> Parts:
    """Read a set from its published files. ValueError when one is not the published file."""
    check_size(size)
    named = NAMED[name]
    for path, remote in zip(files, named.files, strict=True):
        check(path, remote)
    needs = needed(("train", "test"), wanted)
    if name.startswith("cifar"):
        arrays, classes = _cifar(files[0], needs, fine=name == "cifar100")
        classes = named.classes or classes
    else:
        arrays = {each: _idx_split(files, each) for each in needs}
        classes = named.classes
    return _parts(named.title, arrays, classes, size)


def _parts(
    title: str, arrays: dict[str, tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], size: int | None
) -> Parts:
    """{split: (pixels (N, C, H, W) uint8, labels (N,))} to Parts, resized if asked for."""
    splits, original = {}, None
    rows = columns = 0
    for name, (pixels, labels) in arrays.items():
        rows, columns = pixels.shape[2:]
        original = Sizes((rows, rows), (columns, columns))
        if size is not None and (rows, columns) != (size, size):
            pixels = np.stack([fit(p.transpose(1, 2, 0), (size, size)).transpose(2, 0, 1) for p in pixels])
        ids = tuple(f"{name}/row {row}" for row in range(len(labels)))
        splits[name] = Images(
            torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels.astype(np.int64)), classes, ids
        )
    note = f"size: {rows} x {columns}, as the pictures are" if size is None else f"size: {size} x {size}, as asked for"
    return Parts(title, splits, False, [], [note], original)


def read_digits(wanted: set[str], size: int | None) -> Parts:
    """1,797 gray 8 x 8 digits, values 0..16 scaled to 0..255. A fixed fifth of each class is the test split, whatever
    the seed, so that no run trains on what another tests on."""
    check_size(size)
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = found.target.astype(np.int64)
    train, test = split(torch.from_numpy(labels), _DIGITS_TEST, seed=0)
    places = {"train": train.numpy(), "test": test.numpy()}
    arrays = {name: (pixels[places[name]], labels[places[name]]) for name in needed(places, wanted)}
    parts = _parts("digits", arrays, tuple("0123456789"), size)
    parts.notes.append(f"test: {len(test)} of {len(labels)} pictures, the same in every run (20 % of each class)")
    return parts


def _cifar(
    path: Path, needs: Sequence[str], fine: bool
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Records of CIFAR-10 (label, 3072 pixels) or CIFAR-100 (coarse label, fine label, pixels); and the fine names."""
    head = 2 if fine else 1
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:  # one pass; members are read in memory and never unpacked
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None:
                    parts[Path(member.name).name] = stream.read()
        members = {
            "train": ["train.bin"] if fine else [f"data_batch_{i}.bin" for i in range(1, 6)],
            "test": ["test.bin"] if fine else ["test_batch.bin"],
        }
        arrays = {}
        for name in needs:
            raw = b"".join(parts[member] for member in members[name])
            records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, head + 3072)
            arrays[name] = (records[:, head:].reshape(-1, 3, 32, 32).copy(), records[:, head - 1].copy())
        names = parts["fine_label_names.txt"].decode().split() if fine else []
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a CIFAR binary archive ({type(error).__name__}: {error})") from None
    return arrays, tuple(names)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of uint8: two zero bytes, type 8, the number of dimensions, their lengths, the values."""
    try:
        raw = gzip.decompress(path.read_bytes())
        zero, kind, found = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{found}I", raw, 4)
        if (zero, kind, found) != (0, 8, dimensions):
            raise ValueError(f"its header is {raw[:4].hex()}")
        return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * found).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{path}: not an IDX file ({error})") from None


def _idx_split(files: Sequence[Path], name: str) -> tuple[np.ndarray, np.ndarray]:
    pixels_at, labels_at = _IDX_SPLITS[name]
    pixels, labels = _idx(files[pixels_at], 3), _idx(files[labels_at], 1)
    if len(pixels) != len(labels):
        raise ValueError(f"{files[pixels_at]}: {len(pixels)} pictures, but {len(labels)} labels")
    return pixels[:, None].copy(), labels

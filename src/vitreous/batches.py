"""Which pictures a step sees, and how they are changed: functions of (data, config, step, progress).

Because no state is carried from step to step, a run that is resumed at step n sees what it would have seen. Several
processes share each batch: together they see what one process would see.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vitreous import augment, ranks
from vitreous.augment import Draws
from vitreous.classifier import normalise
from vitreous.config import RunConfig
from vitreous.data import Images, Mapped
from vitreous.device import holds


def generator_for(*key: int | str) -> Generator:
    """A random generator that depends on ``key`` alone, on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def steps_per_epoch(count: int, batch: int) -> int:
    """Whole batches in ``count`` pictures; the remainder of an epoch waits for another order."""
    return max(1, count // batch)


def evened(labels: Tensor, balance: float, generator: Generator) -> Tensor:
    """The places of an epoch's pictures, (N,): as many as ``labels`` (N,), classes drawn as evenly as is asked for.

    A class of n pictures gets a share of the epoch that grows as n^(1 - balance): with 0 as it is, with 1 all classes
    the same. Within a class every picture is drawn as often as any other, give or take once: those of a rare class come
    several times in an epoch, of a common one only some come, others in the next.
    """
    counts = torch.bincount(labels).double()
    wanted = torch.where(counts > 0, counts ** (1 - balance), 0.0)
    wanted *= len(labels) / wanted.sum()
    whole = wanted.floor().long()
    rest = (wanted - whole).argsort(descending=True, stable=True)[: len(labels) - int(whole.sum())]
    whole[rest] += 1  # the largest remainders, so that the epoch keeps its length
    drawn = []
    for label, times in enumerate(whole.tolist()):
        members = torch.nonzero(labels == label).flatten()
        while times > 0:
            drawn.append(members[torch.randperm(len(members), generator=generator)[:times]])
            times -= len(drawn[-1])
    return torch.cat(drawn)


class Batches:
    """The training batches of a run. Keeps the order of the current epoch, which is all that is worth keeping."""

    def __init__(self, images: Images, config: RunConfig) -> None:
        self.images, self.config = images, config
        self.mean, self.std = (config.data.mean, config.data.std) if config.data.mean else images.mean_std()
        self.batch = min(config.batch, len(images))
        self.per_epoch = steps_per_epoch(len(images), self.batch)
        self._epoch, self._order = -1, torch.empty(0)
        self._mirrored = torch.rand(len(images), generator=generator_for("mirror", config.seed)) < 0.5
        """Which pictures the first epoch mirrors, (N,)."""

    def to(self, device: torch.device) -> None:
        """Moves the pictures, as uint8, to where the model is, or only those of each step if all are too many."""
        pixels = self.images.pixels
        if holds(device, pixels.nbytes) and self._stream is None:
            pixels = pixels.to(device)
        self.images = dataclasses.replace(self.images, pixels=pixels, labels=self.images.labels.to(device))

    def some(self, pixels: int = 500_000) -> Tensor:
        """Pictures from all over the set, of about so many ``pixels`` together: (n, C, H, W), normalised."""
        count, side = len(self.images), self.images.pixels.shape[-1]
        wanted = min(count, max(1, pixels // side**2))
        places = torch.arange(wanted) * count // wanted
        return normalise(self.images.pixels[places], self.mean, self.std)

    def chosen(self, step: int) -> Tensor:
        """The pictures of a step, (B,): epoch after epoch, each in a new order, no picture twice in an epoch.

        With ``data.balance`` an epoch is as long, but holds pictures of rare classes several times (:func:`evened`).
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = generator_for("order", self.config.seed, epoch)
            order = torch.randperm(len(self.images), generator=generator)
            if self.config.data.balance:
                order = evened(self.images.labels.cpu(), self.config.data.balance, generator)[order]
            self._epoch, self._order = epoch, order
        return self._order[position * self.batch : (position + 1) * self.batch]

    def side(self, step: int, progress: float) -> int:
        """Side in pixels of the pictures of a step, when ``progress`` (0 to 1) of the run is done."""
        sizes = self.config.sizes
        if not sizes:
            return self.config.size_at(progress)
        weights = torch.tensor([1.0 / size**2 for size in sizes], dtype=torch.double)  # time grows with the area
        return sizes[int(torch.multinomial(weights, 1, generator=generator_for("size", self.config.seed, step)))]

    def _turned(self, places: Tensor, step: int) -> Tensor:
        """Which of the pictures at ``places`` (b,) a step mirrors, bool (b,): at first a random half, then by turns.

        So two epochs show both sides of each picture, where coins would show half of them twice alike (Jordan 2024,
        "94 % on CIFAR-10 in 3.29 seconds on a single GPU", alternating flip).
        """
        return self._mirrored[places] ^ (step // self.per_epoch % 2 == 1)

    @property
    def _stream(self) -> Mapped | None:
        """The pictures, where they are decoded batch by batch."""
        pixels = self.images.pixels
        return pixels if isinstance(pixels, Mapped) and pixels.stream is not None else None

    def _share(self, step: int, progress: float) -> tuple[Tensor, augment.Mix | None, Tensor]:
        """Which of a step's B pictures this process needs; how they are mixed, and where among them each pair is."""
        own = torch.arange(self.batch)[ranks.share(self.batch)]
        how = augment.draw_mix(self.batch, self.config.augment, generator_for("mix", self.config.seed, step))
        if how is None or progress >= self.config.augment.mix_until:
            return own, None, torch.empty(0)
        rows, places = torch.cat([own, how.order[own]]).unique(return_inverse=True)  # partners may be another's
        return rows, how, places

    def at(self, step: int, size: int, device: torch.device, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """This process's share of a step: float pictures (b, C, size, size), normalised, and class probabilities.

        Those are (b, classes), and b is B for one process. A picture does not depend on who shares the batch.
        ``progress`` is that of the run, from 0 to 1.
        """
        config, seed = self.config.augment, self.config.seed
        rows, how, places = self._share(step, progress)
        draws = Draws(generator_for("augment", seed, step), self.batch, rows)
        chosen = self.chosen(step)[rows]
        where = chosen.to(self.images.pixels.device)
        pictures = self.images.pixels[where].to(device)
        labels = self.images.labels[where].to(device)
        if self._stream is not None:
            self._stream.ahead(self.chosen(step + 1)[self._share(step + 1, progress)[0]])
        if config.flip:
            pictures = augment.mirror(pictures, self._turned(chosen, step))
        if config.shift:
            pictures = augment.shift(pictures, config.shift, draws)
        pictures = augment.resize(pictures, size)
        if config.randaugment:
            pictures = augment.randaugment(pictures.float() / 255, config.randaugment, draws) * 255
        inputs = normalise(pictures, self.mean, self.std)
        if config.erase:
            inputs = augment.erase(inputs, config.erase, draws)
        targets = F.one_hot(labels, len(self.images.classes)).float()
        if how is not None:
            mine, theirs = places.to(device).chunk(2)
            inputs, targets = augment.mix((inputs[mine], targets[mine]), (inputs[theirs], targets[theirs]), how)
        return inputs, targets

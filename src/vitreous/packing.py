"""Pictures of different sizes and shapes in one pass, without padding: their tokens stand in one long sequence.

After NaViT (Dehghani et al. 2023). Every layer but attention treats tokens alone, so it sees one sequence of all
pictures; attention is computed picture by picture, which is what a block mask would leave of the whole matrix, at
none of its cost. The scores are those of each picture alone, whatever the order.

Shapes: B pictures, C channels, H_i W_i pixels of picture i, N_i its tokens, T the sum of the N_i, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitreous.positions import Packed
from vitreous.vit import ViT


def packed_features(model: ViT, pictures: Sequence[Tensor]) -> Tensor:
    """The vector that the head reads of each picture: B x (C, H_i, W_i) -> (B, D). Gradients flow.

    Pictures of one size go through the stem together. In training mode a conv stem normalises over each size alone.
    """
    if not pictures:
        raise ValueError("0 pictures make no pack: give at least one")
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        groups.setdefault(tuple(picture.shape), []).append(number)
    batches = [torch.stack([pictures[i] for i in members]) for members in groups.values()]
    tokens = [model.tokens(batch) for batch in batches]  # each (b, N_i, D)
    place = Packed(tuple((len(t), t.shape[1], model.place(b)) for t, b in zip(tokens, batches, strict=True)))
    x = torch.cat([t.flatten(0, 1) for t in tokens])[None]  # (1, T, D)
    for block in model.blocks:
        x = block(x, place)
    parts = zip(x.split(place.lengths, dim=1), place.blocks, strict=True)
    read = torch.cat([model.read(part.unflatten(1, (count, -1))[0]) for part, (count, _, _) in parts])
    order = torch.tensor([i for members in groups.values() for i in members], device=read.device)
    return read[order.argsort()]


def packed_scores(model: ViT, pictures: Sequence[Tensor]) -> Tensor:
    """Class scores before softmax of pictures of any sizes: B x (C, H_i, W_i) -> (B, classes)."""
    return model.head(packed_features(model, pictures))

"""From a model's config to a module: the only place that knows which families of models there are."""

from __future__ import annotations

import torch
from torch import nn

from vitreous.cnn import CNN, CNNConfig
from vitreous.vit import ViT, ViTConfig, use_attention

ModelConfig = ViTConfig | CNNConfig

FAMILIES: dict[str, type[ViTConfig] | type[CNNConfig]] = {"vit": ViTConfig, "resnet": CNNConfig, "fastcnn": CNNConfig}
"""Which config describes a family, as the ``family`` field of its JSON form names it."""


def build_model(config: ModelConfig) -> nn.Module:
    """A freshly initialised model, from torch's global random state."""
    return ViT(config) if isinstance(config, ViTConfig) else CNN(config)


def describe(config: ModelConfig) -> str:
    """The architecture in a phrase."""
    if isinstance(config, ViTConfig):
        return (
            f"Vision Transformer, width {config.width}, {config.depth} blocks, {config.stem} stem, "
            f"patch {config.patch_size}, {config.positions} positions"
        )
    return f"{config.family}, widths {', '.join(map(str, config.widths))}, depth {config.depth}"


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_flops(config: ModelConfig, size: int | None = None) -> int:
    """Floating-point operations of one picture forwards, two a multiplication and addition, at ``size`` pixels.

    As torch.utils.flop_counter has it: matrix products and convolutions. Leaves torch's random state as it was.
    """
    from torch.utils.flop_counter import FlopCounterMode  # its first use takes seconds, which no budget should pay

    side = size or config.image_size
    with torch.random.fork_rng(devices=[]):
        model = build_model(config).eval()
    use_attention(model, "explicit")  # torch's own kernel is not counted everywhere
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, config.channels, side, side))
    return counter.get_total_flops()

"""From a model's config to a module: the only place that knows which families of models there are."""

from __future__ import annotations

from torch import nn

from vitreous.vit import ViT, ViTConfig


def build_model(config: ViTConfig) -> nn.Module:
    """A freshly initialised model, from torch's global random state."""
    return ViT(config)


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

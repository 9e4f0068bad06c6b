"""What timm and Hugging Face call the weights of a Vision Transformer. Our names are timm's, so converting is renaming.

Not here: files (pretrained.py), and what else an architecture needs to be told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

HUGGINGFACE = (
    (r"^(vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)
"""What of Hugging Face's names, of the old and the new spelling, becomes what of timm's, one after the other."""

UNUSED = ("mask_token", "pooler.", "head_dist.")
"""Weights that only other tasks use, or the teacher's half of DeiT's head."""

STRANGE = {
    "norm_pre.": "it normalises before its first block, as CLIP does",
    "fc_norm.": "it normalises after pooling",
    "attn_pool.": "it pools by attention, as SigLIP does",
    ".q_norm.": "it normalises queries and keys",
    ".mlp.w12.": "its MLPs are gated, as those of DINOv2's giant are",
    ".mlp.weights_in.": "its MLPs are gated, as those of DINOv2's giant are",
    ".mlp.gate_proj.": "its MLPs are gated, as those of DINOv2's giant are",
    "relative_position": "it has relative positions, as BEiT does",
}
"""Names that give away what ViTConfig cannot express."""


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names, in fp32, queries, keys and values joined.

    Raises ValueError for what is no Vision Transformer, or one that cannot be expressed here.
    """
    theirs = any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors)
    if not theirs and "patch_embed.proj.weight" not in tensors:
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"no Vision Transformer of timm or Hugging Face is in it, for there is no patch embedding among its "
            f"{len(tensors)} weights ({some}{', ...' * (len(tensors) > 3)})"
        )
    weights = {}
    for name, tensor in tensors.items():
        for pattern, new in HUGGINGFACE if theirs else ():
            name = re.sub(pattern, new, name)
        if not name.startswith(UNUSED):
            weights[name.replace("register_tokens", "reg_token")] = tensor.float()
    for name in weights:
        for fragment, reason in STRANGE.items():
            if fragment in name:
                raise ValueError(f"{reason} ({name}), which cannot be expressed here")
    for query in [name for name in weights if ".attn.q." in name]:
        parts = [query.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(part in weights for part in parts):
            weights[query.replace(".q.", ".qkv.")] = torch.cat([weights.pop(part) for part in parts])
    return weights


TO_HUGGINGFACE = (
    (r"^(cls_token)$", r"vit.embeddings.\1"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
)
"""The way back, to the names that every version of its ViTForImageClassification reads."""


def for_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under Hugging Face's names; what a layer scale multiplies is multiplied here, once and for all."""
    theirs = {}
    for name, tensor in weights.items():
        if name.endswith(".gamma"):
            continue
        for layer, scale in ((".attn.proj.", ".ls1.gamma"), (".mlp.fc2.", ".ls2.gamma")):
            block, found, kind = name.partition(layer)
            if found and block + scale in weights:
                gamma = weights[block + scale]
                tensor = tensor * (gamma[:, None] if kind == "weight" else gamma)
        for pattern, new in TO_HUGGINGFACE:
            name = re.sub(pattern, new, name)
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                theirs[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = third
        else:
            theirs[name] = tensor
    return theirs

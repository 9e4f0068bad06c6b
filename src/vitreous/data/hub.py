"""`hf:owner/name` to a local folder, through huggingface_hub and its own cache."""

from __future__ import annotations

import re
from pathlib import Path

_CONVERTED = "refs/convert/parquet"  # where the hub keeps a parquet form of sets published otherwise


def snapshot(source: str) -> Path:
    """Fetch the parquet files of `hf:owner/name` or `hf:owner/name@revision`; return the folder that holds them.

    Only *.parquet is fetched, so no code of the repository ever arrives. ValueError when there is no such repository,
    no parquet in it, or no network and nothing fetched before.
    """
    for revision in (None,) if "@" in source else (None, _CONVERTED):
        folder = fetch(source, "dataset", ["*.parquet"], revision)
        if folder is not None and any(folder.rglob("*.parquet")):
            return folder
    raise ValueError(f"{source}: holds no parquet files; pass a folder of pictures or parquet files instead")


def fetch(source: str, kind: str, patterns: list[str], revision: str | None = None) -> Path | None:
    """Fetch those files of a "dataset" or "model" whose names fit; the folder, or None for no such revision.

    `source` is `hf:owner/name`, with `@revision` or else at `revision`. ValueError when there is no such repository,
    or no network and nothing fetched before.
    """
    what = {"dataset": "data set", "model": "model"}[kind]
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not match:
        example = {"dataset": "hf:uoft-cs/cifar10", "model": "hf:google/vit-base-patch16-224"}[kind]
        raise ValueError(f"{source!r}: write hf:owner/name, for example {example}")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                match[1], repo_type=kind, revision=match[2] or revision, allow_patterns=patterns
            )
        )
    except RepositoryNotFoundError:
        raise ValueError(
            f"{source}: no such {what} on the hub (or it is private: log in with `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        return None
    except Exception as error:  # httpx, OSError or the hub's own errors, by version; all mean "not fetched"
        text = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{source}: could not be fetched ({text}).\nFetch {', '.join(patterns)} where there is a network, and pass "
            "the folder instead."
        ) from None

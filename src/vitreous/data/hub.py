"""`hf:owner/name` to a local folder of parquet files, through huggingface_hub and its own cache."""

from __future__ import annotations

import re
from pathlib import Path

_CONVERTED = "refs/convert/parquet"  # where the hub keeps a parquet form of sets published otherwise


def snapshot(source: str) -> Path:
    """Fetch the parquet files of `hf:owner/name` or `hf:owner/name@revision`; return the folder that holds them.

    Only *.parquet is fetched, so no code of the repository ever arrives. ValueError when there is no such repository,
    no parquet in it, or no network and nothing fetched before.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not match:
        raise ValueError(f"{source!r}: write hf:owner/name, for example hf:uoft-cs/cifar10")
    repository, revision = match.groups()
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    for attempt in [revision] if revision else [None, _CONVERTED]:
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    repository, repo_type="dataset", revision=attempt, allow_patterns=["*.parquet"]
                )
            )
        except RepositoryNotFoundError:
            raise ValueError(
                f"{source}: no such data set on the hub (or it is private: log in with `hf auth login`)"
            ) from None
        except RevisionNotFoundError:
            continue
        except Exception as error:  # httpx, OSError or the hub's own errors, by version; all mean "not fetched"
            text = " ".join(str(error).split())[:160]
            raise ValueError(
                f"{source}: could not be fetched ({text}).\nFetch it where there is a network, and pass the "
                "folder with its parquet files instead."
            ) from None
        if any(folder.rglob("*.parquet")):
            return folder
    raise ValueError(f"{source}: holds no parquet files; pass a folder of pictures or parquet files instead")

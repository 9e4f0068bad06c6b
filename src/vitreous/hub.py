"""A classifier folder to the Hugging Face hub: its files in one commit, with a model card that has the figures.

What comes from the hub is fetched by data/hub.py and loaded by classifier.py; nothing of it is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import vitreous
from vitreous.sealed import MANIFEST

FILES = ("config.json", "model.safetensors", MANIFEST)
"""What is sent beside the card: no code, no pickles, nothing else that may lie in the folder."""


@dataclass(frozen=True)
class Figure:
    """An accuracy that the card tells, 0 to 1."""

    accuracy: float
    split: str
    dataset: str


def push(folder: Path, repository: str, figures: Sequence[Figure] = (), *, private: bool = False) -> str:
    """Sends a classifier folder to ``owner/name``, which is made where it is not there; returns its address.

    The text and the metadata that a person wrote into the folder's README.md stay, such as a license, which is theirs
    to choose. Raises ValueError in a line that says what to do.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository: write owner/name")
    from huggingface_hub import CommitOperationAdd, HfApi

    sent: dict[str, str | bytes] = {name: str(folder / name) for name in FILES if (folder / name).is_file()}
    sent["README.md"] = card(folder, repository, figures).encode()
    operations = [CommitOperationAdd(name, content) for name, content in sent.items()]
    try:
        api = HfApi()
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"A classifier, by vitreous {vitreous.__version__}")
    except Exception as problem:  # the hub's own errors, httpx's and OSError, by version
        raise ValueError(f"{repository}: {_cure(problem)}") from None
    return str(address)


def card(folder: Path, repository: str, figures: Sequence[Figure] = ()) -> str:
    """The folder's README.md with the metadata that the hub reads; the validation accuracy of the run is a figure."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    provenance = json.loads((folder / "config.json").read_bytes()).get("provenance", {})
    known = list(figures)
    if provenance.get("val_accuracy") is not None and all(figure.split != "val" for figure in known):
        known.append(Figure(provenance["val_accuracy"], "val", provenance.get("data", "its own data")))
    text = (
        (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else "# Image classifier"
    )
    made = ModelCard(text.replace('Classifier.load(".")', f'Classifier.from_pretrained("{repository}")'))
    theirs = {name: value for name, value in made.data.to_dict().items() if name != "model-index"}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_name=figure.dataset,
            dataset_type=re.sub(r"[^\w.-]+", "-", figure.dataset).strip("-").lower(),
            dataset_split={"val": "validation"}.get(figure.split, figure.split),
            metric_type="accuracy",
            metric_value=figure.accuracy,
        )
        for figure in known
    ]
    ours = {
        "library_name": "vitreous",
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys([*theirs.get("tags", []), "vitreous", "vision", "image-classification"])),
        "model_name": repository.partition("/")[2],
        "eval_results": results,
    }
    made.data = ModelCardData(**{**theirs, **ours})
    return str(made)


def _cure(problem: Exception) -> str:
    """What went wrong with the hub, in words that say what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    said = " ".join(str(problem).split())[:160]
    if isinstance(problem, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to send"
    status = problem.response.status_code if isinstance(problem, HfHubHTTPError) else None
    if status == 401 or isinstance(problem, LocalTokenNotFoundError):
        return "the hub knows no token of yours: run hf auth login, or set HF_TOKEN, with one that may write"
    if status == 403:
        return "your token may not write there: give one that may, or name a repository of your own"
    if status == 404:
        return "there is no such owner, or your token may not see it"
    return f"could not be sent ({said}): try again where the hub can be reached"

"""What the HTTP interface answers, field by field (OpenAPI is made from it), and how answers are filled."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel, Field

from vitreous.serve.engine import Answer, Question
from vitreous.serve.samples import png


class Ranked(BaseModel):
    """A class and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1)


class Prediction(BaseModel):
    """What the classifier says of one picture."""

    run: str
    label: str = Field(description="The most probable class.")
    probability: float = Field(ge=0, le=1)
    top: list[Ranked] = Field(description="The most probable classes, the best first.")
    logits: list[float] = Field(description="Class scores before softmax, in the order of the classes in /v1/model.")
    picture: str | None = Field(description="With seen=true: the picture as the model sees it, a PNG as a data URL.")


class Heatmap(Prediction):
    """A prediction with the map of what the model looks at."""

    method: str
    layer: int | None = Field(description="From 1; null is the mean over layers.")
    head: int | None = Field(description="From 1; null is the mean over heads.")
    patch: list[int] | None = Field(description="Row and column, from 0, of the patch whose attention this is.")
    target: str | None = Field(description="The class that was asked about; null is the predicted one.")
    grid: list[int] = Field(description="Rows and columns of patches.")
    map: list[list[float]] = Field(description="Rows of the map: raw shares of the attention, for 'attention'.")


class ModelFacts(BaseModel):
    """One served run."""

    name: str
    model: str
    classes: list[str]
    size: int = Field(description="Side in pixels to which pictures are brought.")
    channels: int
    patch_size: int = Field(description="Side in pixels of a patch of a map; the first lies in the top left corner.")
    grid: list[int] | None
    layers: int
    heads: int
    source: str | None = Field(description="Whose attention a map shows unless a patch is asked for.")
    parameters: int
    methods: list[dict[str, Any]]
    provenance: dict[str, Any]


class Models(BaseModel):
    """Every served run; the first is the one that is asked when a request names none."""

    version: str
    runs: list[ModelFacts]


class SampleFacts(BaseModel):
    """A validation picture; its pixels are at /v1/samples/ID.png."""

    id: int
    label: str
    source: str


class SampleList(BaseModel):
    """The sample pictures, or a note that says why there are none."""

    samples: list[SampleFacts]
    note: str | None


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One picture (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM), as it is or as the only file of a form.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "additionalProperties": False,
                }
            },
        },
    }
}


def _problem(description: str) -> dict[str, Any]:
    """How OpenAPI describes a refusal: FastAPI's own way gives it the media type of the route's good answer."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


Responses = dict[int | str, dict[str, Any]]
REFUSED: Responses = {"default": _problem("A refusal; docs/serve.md lists which there are.")}
"""Of every route. It also keeps FastAPI from announcing its own form of 422."""
PROBLEMS: Responses = {
    400: {"model": Problem} | _problem("A parameter or the form is not as it must be."),
    404: _problem("There is no such run."),
    413: _problem("Too many bytes."),
    422: _problem("Not a picture, a damaged one, or one of too many pixels."),
    503: _problem("No place, or not answered in time; Retry-After says when to ask."),
}
READING: Responses = {503: _problem("The samples are still being read; Retry-After says when to ask.")}
PICTURE: Responses = {200: {"content": {"image/png": {}}}, 404: _problem("There is no such sample.")}


def prediction(question: Question, answer: Answer, top: int, seen: bool) -> dict[str, Any]:
    """The fields of Prediction; the probabilities are those of ``Classifier.predict``."""
    classes = question.run.classifier.classes
    values, indices = answer.logits[None].softmax(dim=1)[0].topk(min(top, len(classes)))
    ranked = [{"label": classes[i], "probability": p} for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
    picture = "data:image/png;base64," + base64.b64encode(png(question.pixels)).decode() if seen else None
    return {
        "run": question.run.name,
        **ranked[0],
        "top": ranked,
        "logits": answer.logits.tolist(),
        "picture": picture,
    }


def heatmap(question: Question, answer: Answer, top: int, seen: bool) -> dict[str, Any]:
    """The fields of Heatmap."""
    view, found = question.view, answer.map
    assert view is not None and found is not None
    return {
        **prediction(question, answer, top, seen),
        "method": view.method,
        "layer": view.layer,
        "head": view.head,
        "patch": list(view.patch) if view.patch else None,
        "target": view.target,
        "grid": list(found.shape),
        "map": found.tolist(),
    }

"""``bench``: how fast this machine is."""

from __future__ import annotations

from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, command, emit


@command
def bench(
    sizes: Annotated[
        list[str] | None, typer.Option("--size", metavar="nano|mini|tiny|small|base", help="A size; again for more.")
    ] = None,
    stems: Annotated[list[str] | None, typer.Option("--stem", metavar="conv|patch", help="A stem; else both.")] = None,
    side: Annotated[int, typer.Option("--image-size", metavar="<int>", help="Side of the pictures in pixels.")] = 32,
    classes: Annotated[int, typer.Option("--classes", metavar="<int>", help="How many classes.")] = 10,
    device: Annotated[
        str, typer.Option("--device", metavar="<str>", help="auto, cpu, cuda, cuda:1 or mps; else auto.")
    ] = "auto",
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="<float>", help="How long each figure is measured.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """How fast this machine trains models and asks them: real steps on noise, nothing downloaded or kept."""
    from vitreous import console, speed
    from vitreous.device import hardware, matrix_rate, pick_device
    from vitreous.recipes import Wish

    if side < 8 or classes < 2 or not 0 <= seconds <= 600:
        raise ValueError("take pictures of 8 pixels or more, 2 classes or more and 0 to 600 seconds")
    products = matrix_rate(pick_device(device))
    console.machine(hardware(), products)
    found = []
    for size in sizes or ["nano"]:
        for stem in stems or ["conv", "patch"]:
            console.say(f"measuring {size}, {stem} stem ...")
            wish = Wish("noise", budget=300.0, size=size, stem=stem, device=device)
            found.append(speed.measure(wish, products, side, classes, seconds))
    console.speeds(found)
    if as_json:
        emit({"hardware": hardware(), "products_flops": products, "models": [each.to_json() for each in found]})

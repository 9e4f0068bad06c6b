# /// script
# [tool.marimo.display]
# theme = "system"
# ///

"""Lesson 4: watch it learn."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="4. Watch it learn")

with app.setup:
    import marimo as mo
    import numpy as np
    import torch

    from vitreous.arrays import mosaic
    from vitreous.lessons import checks, draw
    from vitreous.lessons.live import STEPS, accuracy_at, learn, recipe, trained
    from vitreous.lessons.samples import digits
    from vitreous.positions import KINDS


@app.cell(hide_code=True)
def _():
    torch.set_num_threads(1)  # for so small a model more threads cost more than they bring
    mo.md("""
    # 4. Watch it learn

    At first every matrix is noise. Then: show some digits, measure how wrong the answers are (the **loss**), turn every
    number a little in the direction that makes it less wrong, and again.

    Choose, press **Train**, and watch. It takes some seconds.
    """)
    return


@app.cell
def _():
    steps = STEPS
    looks = 10
    return looks, steps


@app.cell
def _(steps):
    wish = mo.md("""
    {steps}
    {patch}
    {width}

    {positions}
    {lr}
    {seed}
    """).batch(
        steps=mo.ui.slider(steps=[steps, 2 * steps, 3 * steps], value=steps, label="steps", show_value=True),
        patch=mo.ui.slider(steps=[2, 4, 8], value=4, label="patch side", show_value=True),
        width=mo.ui.slider(steps=[16, 32, 48, 64], value=48, label="width", show_value=True),
        positions=mo.ui.dropdown(list(KINDS), value="learned", label="positions"),
        lr=mo.ui.slider(steps=[6e-5, 6e-4, 6e-3, 6e-2], value=6e-3, label="learning rate", show_value=True),
        seed=mo.ui.slider(0, 9, value=0, label="seed", show_value=True),
    )
    form = wish.form(submit_button_label="Train", bordered=True)
    form
    return form, wish


@app.cell
def _():
    data = digits(16)
    _first = [int((data.val.labels == label).nonzero()[0]) for label in range(10)]
    followed = data.val.pixels[_first]  # one digit of each class, never trained on
    return data, followed


@app.function(hide_code=True)
def scene(moments, followed, total):
    """What there is to see at the last of some moments: loss, filters, heatmaps."""
    now = moments[-1]
    shade = np.clip(now.filters / 0.35 * 127 + 128, 0, 255).astype(np.uint8)
    changed = now.filters - moments[0].filters  # (width, patch, patch, 1)
    images = followed.permute(0, 2, 3, 1).numpy()
    looks = [
        draw.heatmap(images[i], now.maps[i], 78, f"{'✓' if guess == str(i) else '✗'} says {guess}")
        for i, guess in enumerate(now.guesses)
    ]
    curves = {"loss": (list(range(1, len(now.losses) + 1)), list(now.losses))}
    accuracy = ([m.step for m in moments], [m.accuracy for m in moments])
    return mo.vstack(
        [
            mo.md(
                f"Step **{now.step}** of {total}, {now.seconds:.1f} s. "
                f"Right on **{now.accuracy:.1%}** of the validation digits."
            ),
            draw.beside(
                draw.lines(curves, x="step", y="loss", width=440, top=2.5),
                draw.lines({"accuracy": accuracy}, x="step", y="validation accuracy", width=440, top=1.0),
            ),
            draw.beside(
                draw.picture(mosaic(shade, 6, gap=1), 210, "the filters"),
                draw.matrix(mosaic(changed, 6, gap=1, fill=0)[..., 0], 210, "what training has changed in them", 0.3),
                draw.beside(*looks, gap=8, width=430),
            ),
        ],
        align="center",
    )


@app.cell
def _(data, followed, form, looks, wish):
    _choice = form.value or wish.value
    moments = []
    for _moment in learn(recipe(**_choice), data, followed, looks):
        moments.append(_moment)
        mo.output.replace(scene(moments, followed, _choice["steps"]))
    scene(moments, followed, _choice["steps"])
    return (moments,)


@app.cell(hide_code=True)
def _():
    mo.md("""
    Each small square on the left is one row of the matrix that turns a patch into a token, folded back into a patch:
    a **filter**. It began as noise. Next to it is what training has added: red above zero, blue below. Look for edges.
    On the right, ten digits that it never trained on, with the class token's attention.

    Try it:

    - A learning rate ten times too large. And one a hundred times too small.
    - Patches of 8: four tokens. Patches of 2: sixty-four, and more time.
    - Another seed: other filters, the same accuracy. There are many ways to see.

    ## Go back in time

    The model was looked at on the way. Move the slider: the filters leave the noise, the heatmaps leave the even share.
    """)
    return


@app.cell
def _(moments):
    when = mo.ui.slider(0, len(moments) - 1, value=len(moments) // 2, label="moment", show_value=True, full_width=True)
    when
    return (when,)


@app.cell(hide_code=True)
def _(followed, moments, when):
    scene(moments[: when.value + 1], followed, moments[-1].step)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Larger pictures than it was trained on

    A model that learned on 16 pixels has 4 x 4 places. At 32 pixels there are 8 x 8. What should the new places be?

    - **learned**: the table of vectors is stretched like a picture.
    - **sincos**: waves of several lengths, which can be computed for any place.
    - **rope**: queries and keys are turned by an angle that grows with the place, so that only the way between two
      tokens counts.
    - **none**: no places at all; how far does a bag of patches come?

    Each kind is trained on 16 pixels, from the same seed, for the same number of steps. Then it reads the same
    validation digits, enlarged.
    """)
    return


@app.cell
def _():
    sizes = (16, 24, 32, 48)
    kinds = [kind for kind in KINDS if kind != "alibi"] if len(KINDS) > 4 else list(KINDS)
    return kinds, sizes


@app.cell
def _(kinds):
    compare = mo.ui.run_button(label=f"Train {len(kinds)} models and compare")
    compare if mo.app_meta().mode in ("run", "edit") else None  # a script and an exported page have nobody to press it
    return (compare,)


@app.cell
def _(compare, kinds, sizes, steps):
    mo.stop(mo.app_meta().mode in ("run", "edit") and not compare.value, mo.md("*Half a minute, once you press.*"))
    compared = {}
    for _kind in mo.status.progress_bar(kinds, title="Training one model a kind", remove_on_exit=True):
        _classifier = trained(steps, _kind)
        compared[_kind] = [accuracy_at(_classifier, _side) for _side in sizes]
    return (compared,)


@app.cell(hide_code=True)
def _(compared, sizes):
    _head = "| positions | " + " | ".join(f"{s} pixels" for s in sizes) + " |\n|---" + "|---:" * len(sizes) + "|\n"
    _rows = "\n".join(f"| {kind} | " + " | ".join(f"{a:.1%}" for a in row) + " |" for kind, row in compared.items())
    mo.vstack(
        [
            draw.lines({kind: (list(sizes), row) for kind, row in compared.items()}, x="pixels a side", y="accuracy"),
            mo.md(_head + _rows),
            mo.md(
                f"One seed and {len(digits(16).val)} pictures: a share is known to about three points, so two kinds "
                "that lie closer than six cannot be told apart. Wider gaps are worth another seed, then belief."
            ),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    No kind stays where it was: an enlarged digit is not only more places, its strokes fill a patch in another way.
    A model that is to read larger pictures is best shown some larger pictures.

    ## Your turn

    The function is written with `vitreous lesson training --edit`.

    **1. What is the loss of a model that has learned nothing, with 10 classes?** Two decimals.
    """)
    return


@app.cell
def _():
    guess = mo.ui.number(start=-10, stop=100, step=0.01, value=0, label="loss")
    guess
    return (guess,)


@app.cell(hide_code=True)
def _(guess):
    checks.first_loss(guess.value, 10)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **2. Write the accuracy** of scores (N, classes) against labels (N).
    """)
    return


@app.function
def accuracy(scores, labels):
    return ...


@app.cell(hide_code=True)
def _():
    checks.accuracy(accuracy)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ---
    Now on pictures of your own: `vitreous train FOLDER --budget 5m`, then `vitreous heatmap runs/FOLDER`.
    """)
    return


if __name__ == "__main__":
    app.run()

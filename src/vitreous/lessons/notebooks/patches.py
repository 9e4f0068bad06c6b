# /// script
# [tool.marimo.display]
# theme = "system"
# ///

"""Lesson 2: from patches to tokens."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="2. From patches to tokens")

with app.setup:
    import marimo as mo
    import numpy as np
    import torch

    from vitreous.arrays import flatten_patches, mosaic, patchify, unpatchify
    from vitreous.lessons import checks, draw, own
    from vitreous.lessons.samples import SAMPLES
    from vitreous.vit import PatchEmbed


@app.cell(hide_code=True)
def _():
    mo.md("""
    # 2. From patches to tokens

    A transformer reads a list of vectors. A picture is a box of numbers.
    This lesson goes from the one to the other in three steps: **cut, flatten, multiply**.
    """)
    return


@app.cell
def _():
    which = mo.ui.dropdown(SAMPLES[:2], value="temple", label="Picture")
    side = mo.ui.slider(steps=[16, 32, 64], value=32, label="Pixels a side", show_value=True)
    patch_side = mo.ui.slider(steps=[1, 2, 4, 8], value=4, label="Patch side", show_value=True)
    camera = own.webcam()
    upload = own.file("or one of your own", camera)
    mo.hstack([which, side, patch_side, upload, "" if camera is None else camera], justify="start", gap=2, wrap=True)
    return camera, patch_side, side, upload, which


@app.cell
def _(camera, patch_side, side, upload, which):
    image, _trouble = own.picture(which.value, side.value, upload, camera)
    patch = patch_side.value
    patches = patchify(image, patch)
    mo.md(_trouble)
    return image, patch, patches


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Cut

    Lay a grid over the picture. Each square of the grid is a **patch**, and later a **token**: a word of the picture.
    """)
    return


@app.cell(hide_code=True)
def _(image, patch, patches):
    _r, _k = patches.shape[:2]
    mo.vstack(
        [
            draw.picture(image, 460, grid=patch),
            mo.md(f"A patch side of {patch} makes **{_r} x {_k} = {_r * _k} patches** of {patch} x {patch} pixels."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Take it apart, put it back

    `patchify(image, patch)` cuts axes in two and moves them: `(H, W, C)` becomes
    `(rows, columns, patch, patch, C)`. No number changes. So the way back is exact. Pull the patches apart:
    """)
    return


@app.cell
def _(patch):
    apart = mo.ui.slider(0, max(2, patch), value=1, label="gap", show_value=True)
    apart
    return (apart,)


@app.cell(hide_code=True)
def _(apart, image, patch, patches):
    _list = patches.reshape(-1, patch, patch, image.shape[2])
    _back = np.array_equal(unpatchify(patches), image)
    mo.vstack(
        [
            draw.picture(mosaic(_list, patches.shape[1], gap=apart.value), 460),
            mo.md(f"`patches.shape` is **`{patches.shape}`**"),
            mo.md(f"`np.array_equal(unpatchify(patches), image)` is **`{_back}`**"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Flatten one patch

    Choose a patch. Read its pixels row by row, three colours each, and write the numbers in one line.
    That line is all that the model will ever know of it.
    """)
    return


@app.cell
def _(patches):
    row = mo.ui.slider(0, patches.shape[0] - 1, value=patches.shape[0] // 2, label="row", show_value=True)
    column = mo.ui.slider(0, patches.shape[1] - 1, value=patches.shape[1] // 4, label="column", show_value=True)
    mo.hstack([row, column], justify="start", gap=2, wrap=True)
    return column, row


@app.cell(hide_code=True)
def _(column, image, patch, patches, row):
    _one = patches[row.value, column.value]
    _flat = _one.reshape(-1)
    _tint = np.zeros((1, _flat.size, 3), np.uint8)
    _tint[0, np.arange(_flat.size), np.arange(_flat.size) % 3] = _flat
    _first = ", ".join(map(str, _flat[:12].tolist())) + (", ..." if _flat.size > 12 else "")
    mo.vstack(
        [
            draw.beside(
                draw.picture(image, 330, boxes=[draw.Box(row.value * patch, column.value * patch, patch, patch)]),
                draw.picture(_one, 200, f"patches[{row.value}, {column.value}]"),
            ),
            draw.picture(
                np.repeat(_tint, max(1, _flat.size // 24), axis=0), 760, "red, green, blue, red, green, blue, ..."
            ),
            mo.md(f"{patch} x {patch} x {image.shape[2]} = **{_flat.size} numbers**: `[{_first}]`"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Multiply by a matrix

    `flat @ weight.T + bias`: a **linear layer**. It turns each line of numbers into another one, of a length we choose.
    That length is the **width** of the model, and the new line is the **token**.

    Here is the whole step at once. Left: one line a patch. Middle: the matrix, still random. Right: one line a token.
    White is zero, red is above, blue is below.
    """)
    return


@app.cell
def _():
    width = mo.ui.slider(steps=[4, 8, 16, 32], value=16, label="width", show_value=True)
    seed = mo.ui.slider(0, 9, value=0, label="random seed", show_value=True)
    mo.hstack([width, seed], justify="start", gap=2, wrap=True)
    return seed, width


@app.cell
def _(image, patch, seed, width):
    torch.manual_seed(seed.value)
    convolution = PatchEmbed(channels=3, patch=patch, width=width.value)
    # The filters (width, C, P, P) as the rows of a matrix (width, P*P*C), in the order that flattening has.
    weight = convolution.proj.weight.detach().permute(0, 2, 3, 1).flatten(1).numpy()
    bias = convolution.proj.bias.detach().numpy()
    flat = flatten_patches(image.astype(np.float32) / 255, patch)
    tokens = flat @ weight.T + bias
    return convolution, flat, tokens, weight


@app.cell(hide_code=True)
def _(flat, tokens, weight):
    _shown = min(64, len(flat))
    mo.vstack(
        [
            draw.beside(
                draw.matrix(flat[:_shown] - 0.5, 330, f"flat {flat.shape}"),
                draw.matrix(weight.T, 130, f"weight.T {weight.T.shape}"),
                draw.matrix(tokens[:_shown], 130, f"tokens {tokens.shape}"),
            ),
            mo.md("" if _shown == len(flat) else f"(the first {_shown} of {len(flat)} rows)"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## The same numbers from a convolution

    In the code of every Vision Transformer you find no cutting. You find
    `Conv2d(3, width, kernel_size=patch, stride=patch)`: a window that jumps by its own size,
    so that it lands once on each patch.

    Is it the same? Do not believe it. Subtract.
    """)
    return


@app.cell
def _(convolution, image, tokens):
    with torch.no_grad():
        _pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255  # (1, C, H, W)
        convolved = convolution(_pixels).flatten(2).transpose(1, 2)[0].numpy()  # (N, width)
    difference = np.abs(convolved - tokens)
    return convolved, difference


@app.cell(hide_code=True)
def _(convolved, difference, tokens):
    _shown = min(64, len(tokens))
    mo.vstack(
        [
            draw.beside(
                draw.matrix(tokens[:_shown], 170, "cut, flatten, multiply"),
                draw.matrix(convolved[:_shown], 170, "strided convolution"),
                draw.matrix(
                    difference[:_shown], 170, "their difference, same colours", limit=float(np.abs(tokens).max())
                ),
            ),
            mo.md(f"Largest difference: **{difference.max():.1e}**. That is rounding, and nothing else."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Each row of the matrix is a little picture

    A row has as many numbers as a patch. Fold it back into a patch: it is a **filter**, what this row looks for.
    Now they are noise. In lesson 4 you watch them learn.
    """)
    return


@app.cell(hide_code=True)
def _(patch, weight, width):
    _filters = weight.reshape(width.value, patch, patch, 3)
    _shade = (_filters / np.abs(_filters).max() * 127 + 128).astype(np.uint8)
    draw.beside(draw.picture(mosaic(_shade, 8, gap=1), 460, f"{width.value} filters of {patch} x {patch} x 3"))
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## What a patch side costs

    Smaller patches see finer things, and there are more of them. Half the patch side: **four times the tokens**.
    And since every token looks at every token: **sixteen times the pairs**.
    """)
    return


@app.cell
def _():
    picture_side = mo.ui.slider(steps=[32, 64, 96, 128, 224, 384], value=224, label="pixels a side", show_value=True)
    picture_side
    return (picture_side,)


@app.cell(hide_code=True)
def _(picture_side):
    _n = {p: (picture_side.value // p) ** 2 for p in (4, 8, 16, 32) if picture_side.value % p == 0}
    _d = 384
    _block = {
        p: 12 * n * _d * _d + 2 * n * n * _d for p, n in _n.items()
    }  # products of a block: linear layers, attention
    mo.vstack(
        [
            mo.hstack(
                [
                    mo.vstack([mo.md("**Tokens**"), draw.bars({f"patch {p}": n for p, n in _n.items()}, 330, ",d")]),
                    mo.vstack(
                        [
                            mo.md("**Products in a block** of width 384 (thousand million)"),
                            draw.bars({f"patch {p}": v / 1e9 for p, v in _block.items()}, 330, ".2f"),
                        ]
                    ),
                ],
                wrap=True,
                justify="start",
            ),
            mo.md(
                "The paper's name says it: *An Image is Worth 16x16 Words*. At 224 pixels, patch 16 makes 196 tokens."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Your turn

    The functions are written with `vitreous lesson patches --edit`.

    **1. How many tokens does a picture of 96 x 96 pixels have with patches of 8?**
    """)
    return


@app.cell
def _():
    count = mo.ui.number(start=0, stop=100_000, value=0, label="tokens")
    count
    return (count,)


@app.cell(hide_code=True)
def _(count):
    checks.count_tokens(count.value, 96, 8)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **2. Cut a picture (H, W, C) into its grid of patches (rows, columns, patch, patch, C).**
    `reshape` and `swapaxes` are enough.
    """)
    return


@app.function
def cut(image, patch):
    return ...


@app.cell(hide_code=True)
def _():
    checks.cut(cut)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **3. Turn flat patches (N, 48) into tokens (N, width), with a weight (width, 48) and a bias (width).**
    """)
    return


@app.function
def embed(flat, weight, bias):
    return ...


@app.cell(hide_code=True)
def _():
    checks.embed(embed)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ---
    The picture is a list of vectors now. Next they talk to each other: **`vitreous lesson tokens`**.
    """)
    return


if __name__ == "__main__":
    app.run()

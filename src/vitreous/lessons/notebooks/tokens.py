# /// script
# [tool.marimo.display]
# theme = "system"
# ///

"""Lesson 3: tokens that look at each other."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="3. Tokens that look at each other")

with app.setup:
    import copy
    import dataclasses

    import marimo as mo
    import numpy as np
    import torch

    from vitreous.arrays import mosaic, patchify, unpatchify
    from vitreous.heatmaps import class_attention
    from vitreous.lessons import checks, draw, own
    from vitreous.lessons.live import STEPS, trained
    from vitreous.lessons.samples import digits


@app.cell(hide_code=True)
def _():
    torch.set_num_threads(1)  # for so small a model more threads cost more than they bring
    mo.md("""
    # 3. Tokens that look at each other

    The picture is now a list of vectors, one a patch. Alone, a patch of a digit means little: a stroke is a stroke.
    Which digit it belongs to, it must learn from the others. **Attention** is how it asks them.

    All that you see here is one small model that has just learned to read digits, opened up.
    """)
    return


@app.cell
def _():
    steps = STEPS
    return (steps,)


@app.cell
def _(steps):
    with mo.status.spinner("A small model learns the digits; about ten seconds ..."):
        classifier = trained(steps)
    model = classifier.model
    patch = classifier.config.patch_size
    pictures = digits(classifier.size).val.pixels[:60]
    return classifier, model, patch, pictures


@app.cell
def _():
    number = mo.ui.slider(0, 59, value=31, label="Which digit", show_value=True)
    camera = own.webcam()
    upload = own.file("or one that you have written", camera)
    mo.hstack([number, upload, "" if camera is None else camera], justify="start", gap=2, wrap=True)
    return camera, number, upload


@app.cell
def _(camera, classifier, number, pictures, upload):
    _written, _trouble = own.digit(classifier.size, upload, camera)
    pixels = pictures[number.value : number.value + 1] if _written is None else _written  # (1, 1, 16, 16)
    image = pixels[0].permute(1, 2, 0).numpy()
    inputs = classifier.prepare(pixels)
    mo.md(_trouble)
    return image, inputs, pixels


@app.cell(hide_code=True)
def _(classifier, image, patch, pixels):
    _says = classifier.predict(pixels, top=10)[0]
    _shares = dict(sorted(_says.top))
    draw.beside(
        draw.picture(image, 300, f"{image.shape[0]} x {image.shape[1]} pixels, patches of {patch}", grid=patch),
        draw.bars(_shares, 330, ".0%", highlight=_says.label),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Who speaks for the picture?

    Sixteen patches make sixteen tokens. None of them stands for the whole.
    So one more is put in front, which belongs to no patch: the **class token**. It begins the same for every picture,
    and from what it has heard at the end, the answer is read.

    Then each token is told **where** it is: a vector for each place is added.
    """)
    return


@app.cell(hide_code=True)
def _(inputs, model):
    with torch.no_grad():
        _patches = model.patch_embed(inputs).flatten(2).transpose(1, 2)[0].numpy()
        _with_class = np.concatenate([model.cls_token[0].numpy(), _patches])
        _places = model.pos_embed[0].numpy()
        _tokens = model.tokens(inputs)[0].numpy()
    _end = float(np.abs(_with_class).max())
    mo.vstack(
        [
            draw.beside(
                draw.matrix(_with_class, 250, f"class token on top of {len(_patches)} patches (to {_end:.1f})", _end),
                draw.matrix(_places, 250, f"positions (colours end at {np.abs(_places).max():.2f})"),
                draw.matrix(_tokens, 250, f"their sum: tokens {_tokens.shape}", _end),
            ),
            mo.md("Rows are tokens. White is zero, red above, blue below."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Does a place know its neighbours?

    Nobody told the model that patch 5 lies beside patch 6; it has learned a free vector for each place.
    Each tile below compares one place with all others: yellow where the two vectors point the same way.
    """)
    return


@app.cell(hide_code=True)
def _(model):
    with torch.no_grad():
        _table = model.pos_embed[0, 1:]
        _unit = _table / _table.norm(dim=1, keepdim=True)
        _alike = (_unit @ _unit.T).numpy()
    _n = round(len(_alike) ** 0.5)
    _tiles = draw.heat(np.clip((_alike.reshape(-1, _n, _n) + 0.3) / 1.3, 0, 1))
    draw.beside(draw.picture(mosaic(_tiles, _n, gap=1), 380, "cosine of each place's vector with all the others"))
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Shuffle the patches

    Mix the patches up. To us the digit is gone. And to the model? Ask it as it is, and ask its **blind** twin, whose
    position vectors are set to zero.
    """)
    return


@app.cell
def _():
    shuffled = mo.ui.slider(0, 20, value=3, label="how often shuffled", show_value=True)
    shuffled
    return (shuffled,)


@app.cell
def _(classifier, model, patch, shuffled):
    def shuffle(pixels):
        """The same shuffle for every picture: (B, C, H, W) -> the same shape."""
        patches = patchify(pixels.permute(0, 2, 3, 1), patch)  # (B, R, K, P, P, C)
        rows, columns = patches.shape[1:3]
        order = np.arange(rows * columns)
        generator = np.random.default_rng(1)
        for _ in range(shuffled.value):
            generator.shuffle(order)
        mixed = patches.flatten(1, 2)[:, order].unflatten(1, (rows, columns))
        return unpatchify(mixed).permute(0, 3, 1, 2)

    _blind = copy.deepcopy(model)
    torch.nn.init.zeros_(_blind.pos_embed)
    blind = dataclasses.replace(classifier, model=_blind)
    return blind, shuffle


@app.cell(hide_code=True)
def _(blind, classifier, patch, pixels, shuffle):
    def _bars(reader, picture, name):
        shares = reader.logits(picture).softmax(dim=1)[0].tolist()
        return draw.bars(dict(zip(reader.classes, shares, strict=True)), 220, ".0%", caption=f"what {name} reads")

    def _line(picture, words):
        seen = draw.picture(picture[0].permute(1, 2, 0).numpy(), 200, words, grid=patch)
        return draw.beside(seen, _bars(classifier, picture, "the model"), _bars(blind, picture, "its blind twin"))

    _change = [(r.logits(pixels) - r.logits(shuffle(pixels))).abs().max().item() for r in (classifier, blind)]
    mo.vstack(
        [
            _line(pixels, "as it was"),
            _line(shuffle(pixels), "shuffled"),
            mo.md(
                f"Shuffling changes the model's scores by up to **{_change[0]:.2g}**, "
                f"those of the blind twin by **{_change[1]:.1e}**, which is rounding."
            ),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _(blind, classifier, shuffle):
    _val = digits(classifier.size).val

    def _right(reader, pixels):
        return f"{(reader.logits(pixels).argmax(dim=1) == _val.labels).float().mean():.1%}"

    mo.md(f"""
    One picture is an anecdote. Of all {len(_val)} validation digits, these are read right:

    | | as they were | shuffled |
    |---|---:|---:|
    | the model | {_right(classifier, _val.pixels)} | {_right(classifier, shuffle(_val.pixels))} |
    | its blind twin | {_right(blind, _val.pixels)} | {_right(blind, shuffle(_val.pixels))} |

    The twin's two numbers are one number: it cannot tell the difference.
    """)
    return


@app.cell
def _():
    order = mo.ui.radio(
        ["everything", "only the positions of the tokens", "nothing"],
        label="**1.** Without positions, what does shuffling the patches change for the class?",
    )
    order
    return (order,)


@app.cell(hide_code=True)
def _(order):
    checks.order_matters(order.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Attention, one head

    Every token makes three vectors of itself: a **query** (what am I looking for?), a **key** (what do I have?) and a
    **value** (what do I tell?).

    1. **Compare**: each query with each key, `q @ k.T / sqrt(E)`. One score a pair. E is how many numbers a query has:
       sums of more products lie further apart, and the root of E makes up for it.
    2. **Share out**: `softmax` over each row turns scores into shares that sum to 1.
    3. **Collect**: each token takes the values of the others by these shares.

    The matrix below is step 2. Row: who looks. Column: at whom. The first row is the class token.
    **Hover a row** to see what it looks at.
    """)
    return


@app.cell
def _(model):
    layer = mo.ui.slider(1, len(model.blocks), value=len(model.blocks), label="block", show_value=True)
    head = mo.ui.slider(1, model.config.heads, value=1, label="head", show_value=True)
    mo.hstack([layer, head], justify="start", gap=2, wrap=True)
    return head, layer


@app.cell
def _(head, inputs, layer, model):
    with torch.no_grad():
        walk = list(model.walk(inputs))  # each block, with the tokens that enter it
        block, entering = walk[layer.value - 1]
        weights = block.attn.weights(block.norm1(entering))[0, head.value - 1].numpy()  # (N, N)
    return block, entering, weights


@app.cell(hide_code=True)
def _(image, model, patch, weights):
    draw.beside(draw.attention(weights, image, patch, model.config.special))
    return


@app.cell(hide_code=True)
def _(weights):
    mo.md(f"""
    Every row sums to 1: the sums lie between {weights.sum(axis=1).min():.6f} and {weights.sum(axis=1).max():.6f}.
    An even share would be {1 / len(weights):.1%}; the largest here is {weights.max():.1%}.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## A block, step by step

    A block does two things: tokens **exchange** (attention), then each **thinks alone** (MLP).
    Both are added to what was there, so nothing is lost on the way. Walk through it:
    """)
    return


@app.cell
def _():
    stage = mo.ui.slider(0, 6, value=0, label="step", show_value=True)
    stage
    return (stage,)


@app.cell
def _(block, entering, layer, model):
    with torch.no_grad():
        _normed = block.norm1(entering)
        _heard = block.attn(_normed)
        _middle = entering + _heard
        _normed2 = block.norm2(_middle)
        _thought = block.mlp(_normed2)
        _out = _middle + _thought
        exact = (_out - block(entering)).abs().max().item()
    _next = (
        "These tokens enter the next block."
        if layer.value < len(model.blocks)
        else "No block is left: the class token is levelled once more, and the head reads the class from it."
    )
    stages = [
        ("x", "The tokens come in.", entering),
        (
            "a = norm1(x)",
            "Each token to mean 0 and deviation 1, so that none shouts; then learned gains and shifts.",
            _normed,
        ),
        ("b = attn(a)", "What each token has heard from the others, all heads together.", _heard),
        ("x = x + b", "Added to what it knew.", _middle),
        ("c = norm2(x)", "Levelled again, with gains and shifts of its own.", _normed2),
        ("d = mlp(c)", "What each token makes of it, alone: a wider layer, GELU, and back.", _thought),
        ("x = x + d", f"Added again. {_next}", _out),
    ]
    return exact, stages


@app.cell(hide_code=True)
def _(exact, stage, stages):
    _code, _words, _x = stages[stage.value]
    _small = [
        draw.matrix(_m[0].numpy(), 120, ("▶ " if _i == stage.value else "") + _c)
        for _i, (_c, _, _m) in enumerate(stages)
    ]
    mo.vstack(
        [
            mo.md(f"**`{_code}`** {_words}"),
            draw.matrix(_x[0].numpy(), 560, f"{tuple(_x[0].shape)}: mean {_x.mean():.2f}, deviation {_x.std():.2f}"),
            draw.beside(*_small, gap=12),
            mo.md(f"Done by hand, the last step differs from `block(x)` by **{exact:.1e}**."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## What the class token looked at

    One row of attention a head and block: the first one, the class token's, laid over the picture.
    Their mean is the **heatmap** that `vitreous heatmap` draws.
    """)
    return


@app.cell(hide_code=True)
def _(image, inputs, model):
    _maps = class_attention(model, inputs)[0].numpy()  # (blocks, heads, rows, columns)
    _each = [
        draw.heatmap(image, _maps[_l, _a], 130, f"block {_l + 1}, head {_a + 1}")
        for _l in range(_maps.shape[0])
        for _a in range(_maps.shape[1])
    ]
    mo.vstack(
        [
            *[draw.beside(*_each[_i : _i + _maps.shape[1]], gap=14) for _i in range(0, len(_each), _maps.shape[1])],
            draw.beside(draw.heatmap(image, _maps.mean(axis=(0, 1)), 260, "mean of all")),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Your turn

    The functions are written with `vitreous lesson tokens --edit`.

    **2. Write the softmax over the last axis.** What if a score is 1000?
    """)
    return


@app.function
def softmax(scores):
    return ...


@app.cell(hide_code=True)
def _():
    checks.softmax(softmax)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **3. Write attention for one head:** queries, keys and values (N, E) in, (N, E) out. Your `softmax` may be used.
    """)
    return


@app.function
def attention(q, k, v):
    return ...


@app.cell(hide_code=True)
def _():
    checks.attention(attention)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ---
    So far the model knew. Now watch it learn: **`vitreous lesson training`**.
    """)
    return


if __name__ == "__main__":
    app.run()

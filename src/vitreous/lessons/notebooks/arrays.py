# /// script
# [tool.marimo.display]
# theme = "system"
# ///

"""Lesson 1: an image is an array."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="1. An image is an array")

with app.setup:
    import marimo as mo
    import numpy as np

    from vitreous.arrays import block_mean, channels, downsample, mosaic
    from vitreous.lessons import checks, draw, own
    from vitreous.lessons.samples import SAMPLES, digits


@app.cell(hide_code=True)
def _():
    mo.md("""
    # 1. An image is an array

    A machine does not see a flower. It sees a box of numbers.
    Here you take such a box into your hands: index it, slice it, change it, shrink it.

    Everything on this page moves when you move a slider. In Jupyter, change the `value=` of a slider and run on;
    a picture of your own is `image = own.sample("flower", 48, open("me.jpg", "rb").read())` there.
    """)
    return


@app.cell
def _():
    which = mo.ui.dropdown(SAMPLES, value="flower", label="Picture")
    side = mo.ui.slider(steps=[16, 32, 48, 64, 96, 128], value=48, label="Pixels a side", show_value=True)
    camera = own.webcam()
    upload = own.file("or one of your own", camera)
    mo.hstack([which, side, upload, "" if camera is None else camera], justify="start", gap=2, wrap=True)
    return camera, side, upload, which


@app.cell
def _(camera, side, upload, which):
    image, _trouble = own.picture(which.value, side.value, upload, camera)
    mo.md(_trouble)
    return (image,)


@app.cell(hide_code=True)
def _(image):
    _h, _w, _c = image.shape
    mo.vstack(
        [
            draw.picture(image, 420),
            mo.md(
                f"`image.shape` is **`{image.shape}`**: {_h} rows, {_w} columns, {_c} channel{'s' if _c > 1 else ''}"
            ),
            mo.md(f"`image.dtype` is **`{image.dtype}`**: whole numbers from 0 to 255"),
            mo.md("Each little square is one **pixel**. Make the picture smaller until you can count them."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## One pixel

    Two numbers find it: first the **row**, counted from the top, then the **column**, counted from the left.
    Both start at 0.
    """)
    return


@app.cell
def _(image):
    row = mo.ui.slider(0, len(image) - 1, value=len(image) // 3, label="row", show_value=True)
    column = mo.ui.slider(0, image.shape[1] - 1, value=image.shape[1] // 2, label="column", show_value=True)
    mo.hstack([row, column], justify="start", gap=2, wrap=True)
    return column, row


@app.cell(hide_code=True)
def _(column, image, row):
    _pixel = image[row.value, column.value]
    mo.vstack(
        [
            draw.beside(
                draw.picture(image, 380, boxes=[draw.Box(row.value - 0.5, column.value - 0.5, 2, 2)]),
                draw.picture(_pixel[None, None], 160, "this pixel alone"),
            ),
            mo.md(f"`image[{row.value}, {column.value}]` is **`{_pixel.tolist()}`**"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _(column, image, row):
    _top = int(np.clip(row.value - 3, 0, len(image) - 7))
    _left = int(np.clip(column.value - 3, 0, image.shape[1] - 7))
    _near = image[_top : _top + 7, _left : _left + 7]
    _names = ["red", "green", "blue"] if image.shape[2] == 3 else ["grey"]
    mo.vstack(
        [
            mo.md("Around it there are only more numbers. One table a channel:"),
            draw.beside(*[draw.numbers(_near[..., _i], 38, _name) for _i, _name in enumerate(_names)]),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## A range of rows, a range of columns

    `a:b` means from `a` up to, but without, `b`. Two ranges cut out a piece.
    """)
    return


@app.cell
def _(image):
    _n = len(image)
    rows = mo.ui.range_slider(0, _n, value=[_n // 4, 3 * _n // 4], label="rows", show_value=True)
    columns = mo.ui.range_slider(0, _n, value=[_n // 3, 2 * _n // 3], label="columns", show_value=True)
    mo.hstack([rows, columns], justify="start", gap=2, wrap=True)
    return columns, rows


@app.cell(hide_code=True)
def _(columns, image, rows):
    _a, _b = rows.value[0], max(rows.value[1], rows.value[0] + 1)
    _c, _d = columns.value[0], max(columns.value[1], columns.value[0] + 1)
    _piece = image[_a:_b, _c:_d]
    mo.vstack(
        [
            draw.beside(
                draw.picture(image, 380, boxes=[draw.Box(_a, _c, _b - _a, _d - _c)]),
                draw.picture(_piece, round(380 * (_d - _c) / max(_b - _a, _d - _c, 1)))
                if _piece.size
                else draw.Drawing("nothing is left"),
            ),
            mo.md(f"`image[{_a}:{_b}, {_c}:{_d}]` has the shape **`{_piece.shape}`**"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## A row is a strip

    Give one number and leave the rest away: `image[row]` is a whole row.
    Its colours, laid out, are a strip; its numbers are curves.
    """)
    return


@app.cell
def _(image):
    strip = mo.ui.slider(0, len(image) - 1, value=len(image) // 2, label="row", show_value=True, full_width=True)
    strip
    return (strip,)


@app.cell(hide_code=True)
def _(image, strip):
    _line = image[strip.value]
    _names = ["red", "green", "blue"] if image.shape[2] == 3 else ["grey"]
    _curves = {_name: (list(range(len(_line))), _line[:, _i].tolist()) for _i, _name in enumerate(_names)}
    mo.vstack(
        [
            draw.picture(image, 320, boxes=[draw.Box(strip.value, 0, 1, image.shape[1])]),
            draw.picture(np.repeat(_line[None], max(2, len(image) // 16), axis=0), 680),
            mo.md(f"`image[{strip.value}]` has the shape **`{_line.shape}`**"),
            draw.lines(_curves, x="column", y="value", colours=draw.RGB if image.shape[2] == 3 else None),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Channels apart

    `image[:, :, 0]` is how red each pixel is. Alone, a channel has no colour: it is a table of brightness.
    Where the first picture is bright, there is much red.
    """)
    return


@app.cell(hide_code=True)
def _(image):
    _names = ["red", "green", "blue"] if image.shape[2] == 3 else ["grey"]
    _apart = channels(image)
    _tinted = [np.concatenate([_c if _i == _j else 0 * _c for _j in range(3)], axis=2) for _i, _c in enumerate(_apart)]
    mo.vstack(
        [
            draw.beside(*[draw.picture(_c, 230, _n) for _c, _n in zip(_apart, _names, strict=True)]),
            draw.beside(*[draw.picture(_t, 230) for _t in _tinted]) if len(_apart) == 3 else mo.md(""),
            mo.md("Light adds: the three coloured pictures, one plus the other, are the photograph."),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Change it

    An array can be written to. `image[a:b, c:d] = colour` paints a rectangle.
    Work on a `copy()`, or the original is gone.
    """)
    return


@app.cell
def _(image):
    _n = len(image)
    paint_rows = mo.ui.range_slider(0, _n, value=[_n // 8, _n // 3], label="rows", show_value=True)
    paint_columns = mo.ui.range_slider(0, _n, value=[_n // 8, _n // 2], label="columns", show_value=True)
    colour = mo.ui.dropdown(
        {"pink": (255, 45, 135), "black": (0, 0, 0), "white": (255, 255, 255), "noise": None},
        value="pink",
        label="colour",
    )
    mo.hstack([paint_rows, paint_columns, colour], justify="start", gap=2, wrap=True)
    return colour, paint_columns, paint_rows


@app.cell(hide_code=True)
def _(colour, image, paint_columns, paint_rows):
    _painted = image.copy()
    (_a, _b), (_c, _d) = paint_rows.value, paint_columns.value
    _target = _painted[_a:_b, _c:_d]
    if colour.value is None:
        _target[:] = np.random.default_rng(0).integers(0, 256, _target.shape)
    else:
        _target[:] = np.array(colour.value)[: image.shape[2]]
    mo.vstack(
        [
            draw.picture(_painted, 380),
            mo.md(f"`painted = image.copy()`, then `painted[{_a}:{_b}, {_c}:{_d}] = {colour.selected_key}`"),
        ],
        align="center",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Arithmetic

    `255 - image` turns bright into dark. `image + 60` should make everything brighter.
    But a `uint8` has no 256: it **wraps around** to 0, like the clock after 23:59. Bright skies turn black.
    """)
    return


@app.cell
def _():
    brighter = mo.ui.slider(0, 200, value=80, step=10, label="add", show_value=True)
    brighter
    return (brighter,)


@app.cell(hide_code=True)
def _(brighter, image):
    _wide = image.astype(int) + brighter.value
    draw.beside(
        draw.picture(255 - image, 240, "255 - image"),
        draw.picture(image + np.uint8(brighter.value), 240, f"image + {brighter.value}: wraps"),
        draw.picture(np.clip(_wide, 0, 255), 240, "in wider numbers, then clipped at 255"),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Smaller: skip, or average

    `image[::2, ::2]` keeps every second pixel of every second row. That is quick, and it is deaf to the others.
    The **mean of each block** listens to all.

    The stripes show the difference. Find a factor at which skipping turns them into one flat colour.
    """)
    return


@app.cell
def _():
    factor = mo.ui.slider(steps=[1, 2, 4, 8], value=2, label="factor", show_value=True)
    factor
    return (factor,)


@app.cell(hide_code=True)
def _(factor, image):
    _stripes = np.zeros((48, 48, 1), np.uint8)
    _stripes[:24, ::2] = 255  # a period of 2
    _stripes[24:] = np.indices((24, 48)).sum(axis=0)[..., None] % 8 // 4 * 255  # slanted, a period of 8
    draw.beside(
        draw.picture(downsample(image, factor.value), 230, f"image[::{factor.value}, ::{factor.value}]"),
        draw.picture(block_mean(image, factor.value), 230, f"mean of {factor.value} x {factor.value} blocks"),
        draw.picture(downsample(_stripes, factor.value), 230, "stripes, by skipping"),
        draw.picture(block_mean(_stripes, factor.value), 230, "stripes, by averaging"),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Join

    Arrays of one height can be joined side by side, arrays of one width on top of each other.
    Below, the picture and its mirror images; then a **mosaic** of many small pictures.

    Keep the mosaic in mind. The next lesson runs it backwards.
    """)
    return


@app.cell
def _():
    across = mo.ui.slider(1, 24, value=12, label="columns", show_value=True)
    gap = mo.ui.slider(0, 4, value=1, label="gap", show_value=True)
    mo.hstack([across, gap], justify="start", gap=2, wrap=True)
    return across, gap


@app.cell(hide_code=True)
def _(across, gap, image):
    _top = np.concatenate([image, image[:, ::-1]], axis=1)
    _kaleidoscope = np.concatenate([_top, _top[::-1]], axis=0)
    _digits = digits(8).train.pixels[:48].permute(0, 2, 3, 1).numpy()
    draw.beside(
        draw.picture(_kaleidoscope, 300, "np.concatenate, twice"),
        draw.picture(
            mosaic(_digits, across.value, gap=gap.value),
            min(640, 36 * across.value),
            f"mosaic(digits, columns={across.value}, gap={gap.value})",
        ),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Your turn

    Type the number here. For the functions, open the lesson with `vitreous lesson arrays --edit`, write your line
    in place of the dots, and run the cell. The check below each one answers in words.

    **1. How many numbers are in a picture of 224 rows, 224 columns and 3 channels?**
    """)
    return


@app.cell
def _():
    count = mo.ui.number(start=0, stop=10_000_000, value=0, label="numbers")
    count
    return (count,)


@app.cell(hide_code=True)
def _(count):
    checks.count_numbers(count.value, (224, 224, 3))
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **2. Write the negative: black becomes white, white becomes black.**
    """)
    return


@app.function
def invert(image):
    return ...


@app.cell(hide_code=True)
def _():
    checks.invert(invert)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **3. Write the mirror: left and right change places.**
    """)
    return


@app.function
def mirror(image):
    return ...


@app.cell(hide_code=True)
def _():
    checks.mirror(mirror)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    **4. Halve both sides: each new pixel is the mean of a block of 2 x 2.** The sides are even.
    """)
    return


@app.function
def shrink(image):
    return ...


@app.cell(hide_code=True)
def _():
    checks.shrink(shrink)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ---
    You have cut, painted, shrunk and joined, and never left the array. Next: **`vitreous lesson patches`**.
    """)
    return


if __name__ == "__main__":
    app.run()

"""The lessons: images as arrays, patches, tokens, training. Reactive notebooks and what they are made of.

notebooks/   the lessons themselves, marimo files: a page when opened, a script when run
shelf.py     which lessons there are; opening them, exporting them
page.py      a lesson as one HTML page that needs no script and no network
jupyter.py   a lesson as a Jupyter notebook
draw.py      arrays as large pixelated pictures, numbers, matrices to hover, curves
samples.py   the pictures they look at
own.py       the reader's own: a file, or the webcam (camera.js)
live.py      training that one can watch
checks.py    checks of the exercises, which answer in words
answers.py   for instructors

Marimo is imported by the notebooks and by page.py inside its functions, so the house stands without it.
"""

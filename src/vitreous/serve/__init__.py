"""A classifier over HTTP, and a page to look at its answers. Needs the ``serve`` extra; ``server.serve`` starts it.

Read in this order: batcher.py (many questions, one model), engine.py (what a question is and how a group is answered),
metrics.py, guard.py (who may ask), linger.py (refusals that arrive), turnstile.py (refusals that are quick), uploads.py
(from a request to pixels), samples.py, app.py (the routes), server.py (the socket and the signals), page/ (what the
browser gets). Not here: anything about training.
"""

"""What people read in the terminal: the live display of a training run, tables, durations.

Everything here goes to standard error: standard output belongs to programs (``--json``). Not here: parsing arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import progress as counting
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vitreous.data import Findings
    from vitreous.faithfulness import Verdict
    from vitreous.inventory import Entry
    from vitreous.jobs import Repeated
    from vitreous.predict import Predicted
    from vitreous.speed import Speed
    from vitreous.train import Progress, Result
    from vitreous.verify import Verified

LINE_EVERY = 10.0
"""Seconds between two lines of progress where standard error is no terminal."""

PHASES = {
    "scan": "preparing",
    "probe": "measuring",
    "teach": "teaching",
    "train": "training",
    "evaluate": "evaluating",
    "save": "saving",
    "done": "done",
}

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for people, exactly as it is: brackets in a file name are not markup."""
    console.print(text, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``0:42``, ``12:05``, ``1:02:03``."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float | None) -> str:
    """``98.3%``, or a dash for a share of nothing."""
    return "-" if share is None else f"{share:.1%}"


def share_done(progress: Progress, seconds: float) -> float | None:
    """Which part of the run is over, 0 to 1, or None while nobody knows."""
    if progress.budget:
        return min(seconds / progress.budget, 1.0)
    return min(progress.step / progress.steps, 1.0) if progress.steps else None


def time_left(progress: Progress, seconds: float) -> float | None:
    """Seconds to go: the rest of the budget, or else the planned steps that are left at the pace so far."""
    if progress.budget:
        return max(progress.budget - seconds, 0.0)
    if not progress.steps or not progress.step or not progress.images_per_second:
        return None
    images_a_step = progress.images / progress.step
    return (progress.steps - progress.step) * images_a_step / progress.images_per_second


def figures(progress: Progress) -> str:
    """The numbers of the moment in one line, those that exist already."""
    parts = [
        f"step {progress.step}" if progress.step else "",
        f"epoch {progress.epoch:.2f}" if progress.epoch else "",
        f"{progress.images_per_second:,.0f} images/s" if progress.images_per_second else "",
        f"loss {progress.loss:.3f}" if progress.loss is not None else "",
        f"validation {progress.accuracy:.1%}" if progress.accuracy is not None else "",
        f"learning rate {progress.lr:.2e}" if progress.lr else "",
    ]
    return " · ".join(part for part in parts if part)


class TrainingDisplay:
    """A ``watch`` for :func:`vitreous.train.train`: a live bar in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console = console) -> None:
        self._console = console
        self._latest: Progress | None = None
        self._at = 0.0
        self._shown: tuple[float | None, float] = (None, 0.0)  # accuracy and seconds of the last line
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> TrainingDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        self._latest, self._at = progress, time.monotonic()
        if progress.note:
            self._console.print(Text(f"  {progress.note}"), soft_wrap=True)
        if not self._live and self._is_due(progress):
            self._line(progress)

    def _is_due(self, progress: Progress) -> bool:
        """A new figure for accuracy, or ten seconds later; every step would drown a log."""
        accuracy, seconds = self._shown
        return progress.accuracy != accuracy or progress.seconds - seconds >= LINE_EVERY

    def _line(self, progress: Progress) -> None:
        words = f"[{self._clock(progress, progress.seconds)}] {PHASES.get(progress.phase, progress.phase)}"
        self._console.print(Text(f"{words} {figures(progress)}".rstrip()), soft_wrap=True)
        self._shown = (progress.accuracy, progress.seconds)

    @staticmethod
    def _clock(progress: Progress, seconds: float) -> str:
        budget = f" / {duration(progress.budget)}" if progress.budget else ""
        return duration(seconds) + budget

    def _render(self) -> RenderableType:
        progress = self._latest
        if progress is None:
            return Text("starting ...")
        seconds = progress.seconds + time.monotonic() - self._at  # the clock goes on between two reports
        done, left = share_done(progress, seconds), time_left(progress, seconds)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(PHASES.get(progress.phase, progress.phase), style="bold"),
            ProgressBar(total=1.0, completed=done or 0.0, pulse=done is None, width=32),
            Text(self._clock(progress, seconds), style="cyan"),
            Text(f"{duration(left)} left" if left is not None else "", style="dim"),
        )
        return Group(row, Text(figures(progress)))


class Counter:
    """A ``watch`` for work that is counted, such as predictions: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, console: Console = console) -> None:
        self._what, self._console = what, console
        self._bar = counting.Progress(
            counting.TextColumn("{task.description}", style="bold"),
            counting.BarColumn(32),
            counting.TextColumn("{task.completed:,} of {task.total:,}", style="cyan"),
            counting.TextColumn("{task.fields[rate]} images/s"),
            counting.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: counting.TaskID | None = None
        self._since, self._from, self._line_at = 0.0, 0, 0.0

    def __enter__(self) -> Counter:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._task is None:
            self._since, self._from, self._line_at = now, done, now
            self._task = self._bar.add_task(self._what, total=total, completed=done, rate="-")
        rate = f"{(done - self._from) / (now - self._since):,.0f}" if now > self._since else "-"
        self._bar.update(self._task, completed=done, rate=rate)
        if self._bar.disable and now - self._line_at >= LINE_EVERY:
            self._console.print(Text(f"{self._what} {done:,} of {total:,} · {rate} images/s"), soft_wrap=True)
            self._line_at = now


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table whose first column is left-aligned text and whose others are right-aligned figures."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        drawn.add_column(escape(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


def trained(result: Result, source: str | None) -> None:
    """What a training run left, and the commands that come next."""
    if result.interrupted:
        so_far = "its teacher is still learning" if result.teaching else f"the classifier so far is in {result.run}"
        say(f"stopped after {duration(result.seconds)}; {so_far}")
        say(f"go on with  {' '.join(['vitreous train', *filter(None, [source])])} --out {result.run} --resume")
    else:
        rate = result.images / max(result.seconds, 1e-9)
        say(f"{result.images:,} pictures in {duration(result.seconds)} ({rate:,.0f} images/s all in all)")
        say(f"validation accuracy {percent(result.val_accuracy)}, classifier in {result.run}")
        say(f"next        vitreous eval {result.run}\n            vitreous heatmap {result.run}")


def runs(found: Sequence[Entry]) -> None:
    """A line a run."""
    if not found:
        say("no runs there: vitreous train DATA makes one")
        return
    table(
        ("run", "data", "recipe", "state", "begun", "time", "validation", "test", "parameters", "MB"),
        [
            (
                each.run,
                each.data or "-",
                each.recipe or "-",
                each.state,
                each.begun[:16],
                "-" if each.seconds is None else duration(each.seconds),
                percent(each.val_accuracy),
                percent(each.test_accuracy),
                "-" if each.parameters is None else f"{each.parameters:,}",
                f"{each.bytes / 1e6:,.1f}",
            )
            for each in found
        ],
    )


def machine(facts: Mapping[str, Any], products: float) -> None:
    """What a machine is, and how fast a matrix product alone is on it."""
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    say(f"{where}, torch {facts['torch']}: {products / 1e9:,.0f} GFLOP/s in a matrix product")


def speeds(found: Sequence[Speed]) -> None:
    """A line a model: how fast it trains and answers; above, in which way."""
    columns = ["model", "training, images/s", "of products", "one picture", "64 at once"]
    rows = []
    for each in found:
        threads = f"{each.threads} {'thread' if each.threads == 1 else 'threads'}"
        say(
            f"{each.recipe}: {each.parameters:,} parameters, batches of {each.batch}, {each.precision}, "
            f"{each.attention} attention, {threads}"
        )
        sides = ", ".join(f"{rate:,.0f} at {side} px" for side, rate in each.training.items())
        answers = [f"{1000 * each.one_picture:.1f} ms", f"{each.together:,.0f}/s"]
        rows.append([each.recipe, sides, f"{each.share_of_products:.0%}", *answers])
    table(columns, rows)


def repeated(done: Repeated) -> None:
    """How a repeated run compares with the one it repeats."""
    if done.same_weights is not None:
        say(f"the weights are {'those' if done.same_weights else 'not those'} of {done.like}, to the bit")
    elif done.accuracy_then is not None:
        say(f"{done.like} had a validation accuracy of {percent(done.accuracy_then)}")


def verified(found: Verified, run: object) -> None:
    """What holds of a run, what does not, and what is not as it was."""
    for finding in found.findings:
        mark = {True: "same", False: "DIFFERS", None: "-"}[finding.holds]
        say(f"{mark:8} {finding.what}: {finding.words}")
    for difference in found.elsewhere:
        say(f"{'-':8} not as in training: {difference}")
    say(f"{run} {'is what it was' if found.holds else 'is not what it was'}")


def predicted(done: Predicted) -> None:
    """What a table of predictions holds."""
    earlier = f", {done.resumed:,} of them earlier" if done.resumed else ""
    rate = f"{(done.n - done.resumed) / max(done.seconds, 1e-9):,.0f} images/s"
    say(f"{done.n:,} pictures{earlier}, {done.unreadable:,} unreadable, in {duration(done.seconds)} ({rate})")
    rows = list(done.labels.items())
    title = f"the {MOST_CLASSES} most frequent of {len(rows)} classes" if len(rows) > MOST_CLASSES else None
    table(("predicted class", "pictures"), [(label, f"{count:,}") for label, count in rows[:MOST_CLASSES]], title)
    say(f"predictions  {done.out}")


MOST_CLASSES = 30
"""Classes of which a table shows each one; of more than that it shows the worst."""


def evaluation(result: Mapping[str, Any]) -> None:
    """The figures of one evaluation and the table of its classes."""
    low, high = result["interval"]
    say(
        f"{result['dataset']}, {result['split']} split, {result['n']} pictures ({result['fingerprint']})\n"
        f"accuracy           {result['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%})\n"
        f"loss               {result['loss']:.4f}\n"
        f"calibration error  {result['calibration_error']:.2%}  (15 bins)"
    )
    rows = list(result["per_class"])
    title = None
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: (row["recall"] is None, row["recall"]))[:MOST_CLASSES]
        title = f"the {MOST_CLASSES} of {len(result['per_class'])} classes that are found least often"
    table(
        ("class", "precision", "recall", "pictures"),
        [(row["class"], percent(row["precision"]), percent(row["recall"]), str(row["n"])) for row in rows],
        title,
    )


def data_set(facts: Mapping[str, Any]) -> None:
    """What ``vitreous data`` says of a data set."""
    size, splits = facts["size"], facts["splits"]
    colours = "grayscale" if size["channels"] == 1 else "colour"
    say(f"{facts['name']}: {len(facts['classes'])} classes, {size['height']} x {size['width']} pixels, {colours}")
    if facts["original"]:
        low, high = (f"{h} x {w}" for h, w in zip(facts["original"]["height"], facts["original"]["width"], strict=True))
        say(f"original size {low}" if low == high else f"original sizes {low} to {high}")
    say("mean " + " ".join(f"{v:.4f}" for v in facts["mean"]) + ", std " + " ".join(f"{v:.4f}" for v in facts["std"]))
    for note in facts["notes"]:
        say(f"  {note}")
    table(
        ("class", *splits),
        [
            *((name, *(str(split["per_class"][name]) for split in splits.values())) for name in facts["classes"]),
            ("all", *(str(split["n"]) for split in splits.values())),
        ],
    )
    for name, split in splits.items():
        say(f"{name} {split['fingerprint']}")
    rejected(facts["rejected"])


@contextmanager
def counting_pictures() -> Iterator[Callable[[int, int], None]]:
    """Shows how many pictures have been looked at, while the context lasts."""
    with counting.Progress(
        *counting.Progress.get_default_columns(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("looking at every picture", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


MOST_GROUPS = 10


def checked(findings: Findings) -> None:
    """What a check of a data set found: figures, then the first of each kind of finding."""
    counts = findings.counts()
    say(f"{findings.name}: {findings.used:,} of {findings.found:,} pictures can be used")
    for note in findings.notes:
        say(f"  {note}")
    table(
        ("class", *findings.splits),
        [
            *((name, *(str(each[name]) for each in findings.splits.values())) for name in _class_names(findings)),
            ("all", *(str(sum(each.values())) for each in findings.splits.values())),
        ],
    )
    if findings.sizes:
        table(
            ("pixels", *findings.sizes["short side"]),
            [(name, *(f"{value:g}" for value in shares.values())) for name, shares in findings.sizes.items()],
        )
    table(
        ("the same picture", "groups"),
        [
            ("in several splits", str(counts["leaks"])),
            ("with several labels", str(counts["disagrees"])),
            ("pixel for pixel", str(counts["exact"])),
            ("nearly", str(counts["near"])),
        ],
    )
    for group in findings.groups[:MOST_GROUPS]:
        told = ", ".join(f"{each.path} ({each.split}, {each.label})" for each in group.pictures[:3])
        more = f" and {len(group.pictures) - 3} more" if len(group.pictures) > 3 else ""
        say(f"  {'same' if group.kind == 'exact' else 'nearly the same'}: {told}{more}")
    if len(findings.groups) > MOST_GROUPS:
        say(f"  and {len(findings.groups) - MOST_GROUPS} more groups")
    listed("odd", [asdict(each) for each in findings.odd])
    rejected([asdict(each) for each in findings.rejected])
    for said in findings.stops:
        say(f"training would stop: {said}")


def _class_names(findings: Findings) -> list[str]:
    return list(next(iter(findings.splits.values()), {}))[:MOST_CLASSES]


def verdicts(found: Mapping[str, Verdict]) -> None:
    """The figures of every method of making heatmaps, and whether each is faithful."""
    pointed = any(verdict.pointing is not None for verdict in found.values())
    table(
        ("method", "random weights", "deletion", "chance", *(("peak on object", "by chance") * pointed), "verdict"),
        [
            (
                name,
                f"{verdict.similarity:.2f}",
                f"{verdict.deletion:+.1%} ± {verdict.deletion_error:.1%}",
                f"{verdict.deletion_chance:.0e}",
                *((percent(verdict.pointing), percent(verdict.pointing_by_chance)) * pointed),
                "not faithful" if verdict.failed else "faithful",
            )
            for name, verdict in found.items()
        ],
    )
    for name, verdict in found.items():
        say(f"  {name}: {verdict.words}")


MOST_REJECTED = 20


def rejected(files: Sequence[Mapping[str, str]]) -> None:
    """The files that were left out, each with its reason, the first of them if they are many."""
    listed("left out", files)


def listed(what: str, files: Sequence[Mapping[str, str]]) -> None:
    """Files and what is to be said of each, the first of them if they are many."""
    if files:
        say(f"{len(files)} {what}:")
    for each in files[:MOST_REJECTED]:
        say(f"  {each['path']}: {each['reason']}")
    if len(files) > MOST_REJECTED:
        say(f"  and {len(files) - MOST_REJECTED} more")

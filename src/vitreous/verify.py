"""Is a run still what it was? Every file against its hash, its pictures against their fingerprint, its figures anew.

Nothing is written. The test split is read only where ``eval`` has read it before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitreous import checkpoint, classifier, origin, sealed
from vitreous.classifier import Classifier, classifier_folder
from vitreous.data import DataSet, load
from vitreous.evaluate import Evaluation, evaluate, weights_name
from vitreous.runs import read_config

ELSEWHERE = 1e-3
"""By how much a share of right answers may differ after another processor, torch or a GPU; else by nothing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    holds: bool | None
    """None where nothing is known that it could be compared with."""
    words: str


@dataclass(frozen=True)
class Verified:
    """What :func:`verify_run` found."""

    findings: tuple[Finding, ...]
    elsewhere: tuple[str, ...]
    """Versions and hardware that are not those of the run."""

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts."""
        return all(finding.holds is not False for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"holds": self.holds, **asdict(self)}


def verify_run(run: Path, data_root: Path | None = None) -> Verified:
    """Recomputes hashes, fingerprint, and the accuracies that a run states.

    Raises FileNotFoundError where ``run`` is no run folder, ValueError where its pictures or its config cannot be read.
    """
    config = read_config(run)
    files = tuple(_files(run))
    if any(finding.holds is False and finding.what == "classifier" for finding in files):
        return Verified(files, ())
    model = Classifier.load(run)
    elsewhere = origin.differing(origin.of(model.provenance), origin.machine())
    evaluated = run / "eval-test.json"
    wanted = {"train", "val", *(["test"] if evaluated.is_file() else [])}
    data = load(
        config.data.source,
        data_root=data_root,
        size=model.size,
        channels=model.channels,
        val_fraction=config.data.val_fraction,
        seed=config.data.seed,
        splits=wanted,
        images=Path(config.data.images) if config.data.images else None,
    )
    stated_on = model.provenance.get("device", "gpu" if "gpu" in model.provenance else "cpu")
    same = not elsewhere and stated_on == "cpu"  # where it is found out now
    findings = [*files, _pictures(model, data), _validation(model, data, same)]
    if evaluated.is_file():
        findings.append(_tested(run, model, data, same))
    return Verified(tuple(findings), tuple(elsewhere))


def _files(run: Path) -> Iterator[Finding]:
    folders = [(path.name, path, checkpoint.FORMAT) for path in checkpoint.found(run)]
    kept = classifier_folder(run)
    if kept == run:
        yield Finding("classifier", False, "there is none: the run was stopped before it had one; --resume goes on")
    else:
        folders.append(("classifier", kept, classifier.FORMAT))
    for name, folder, newest in folders:
        if not (folder / sealed.MANIFEST).exists():
            yield Finding(name, None, f"has no {sealed.MANIFEST} to compare with")
            continue
        try:
            files = sealed.check(folder, newest)["files"]
        except (OSError, sealed.Damaged) as problem:
            yield Finding(name, False, str(problem))
        else:
            total = sum(facts["bytes"] for facts in files.values())
            yield Finding(name, True, f"{len(files)} files, {total:,} bytes, as they were written")


def _pictures(model: Classifier, data: DataSet) -> Finding:
    assert data.train is not None
    before, now = model.provenance.get("fingerprint"), data.train.fingerprint()
    if before is None:
        return Finding("training pictures", None, f"the classifier does not say which they were; these are {now}")
    words = f"{len(data.train):,}, {now}" if before == now else f"{now} where the run had {before}"
    return Finding("training pictures", before == now, words)


def _validation(model: Classifier, data: DataSet, same: bool) -> Finding:
    stated = model.provenance.get("val_accuracy")
    if data.val is None:
        return Finding("validation accuracy", None, "there are no validation pictures")
    found = evaluate(model, data.val, "val", data.name)
    if stated is None:
        return Finding("validation accuracy", None, f"{found.accuracy:.4%}; the run was stopped before it stated one")
    return _compared("validation accuracy", stated, found.accuracy, found.n, same)


def _tested(run: Path, model: Classifier, data: DataSet, same: bool) -> Finding:
    what = "test accuracy"
    try:
        values = json.loads((run / "eval-test.json").read_bytes())
        stated = Evaluation.from_json(values)
    except (KeyError, TypeError, ValueError) as problem:
        return Finding(what, False, f"eval-test.json cannot be read: {problem}")
    if values.get("weights") != weights_name(run):
        return Finding(what, False, "eval-test.json is of other weights than the classifier has")
    if data.test is None:
        return Finding(what, False, f"{data.name} has no test pictures any more")
    if stated.fingerprint != data.test.fingerprint():
        return Finding(what, False, f"the test pictures are others: {stated.fingerprint} -> {data.test.fingerprint()}")
    found = evaluate(model, data.test, "test", data.name)
    return _compared(what, stated.accuracy, found.accuracy, found.n, same)


def _compared(what: str, stated: float, found: float, n: int, same: bool) -> Finding:
    """A share of right answers then and now. Pictures are counted, since shares are rounded in more than one way."""
    allowed = 0 if same else max(1, round(ELSEWHERE * n))
    differ = round(stated * n) - round(found * n)
    words = f"{found:.4%} of {n:,} pictures"
    if differ:
        words += f" where {stated:.4%} is stated"
    return Finding(what, abs(differ) <= allowed, words)

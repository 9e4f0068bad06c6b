"""Train under Ray: ``python ray_train.py PICTURES RUN`` with both folders where every machine sees them.

Ray starts the processes and joins them; Vitreous finds them joined. A run that failed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def work(asked: dict[str, Any]) -> None:
    """What each process does."""
    from vitreous import Wish, train_on
    from vitreous.jobs import resume

    if (Path(asked["run"]) / "config.json").exists():
        resume(asked["run"])
    else:
        train_on(Wish(asked["pictures"], budget=asked["budget"]), asked["run"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a classifier on several processes that Ray starts.")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--cpu", action="store_true", help="without GPUs")
    asked = parser.parse_args()
    where = {"pictures": str(asked.pictures.resolve()), "run": str(asked.run.resolve()), "budget": asked.budget}
    trainer = TorchTrainer(
        work,
        train_loop_config=where,
        torch_config=TorchConfig(backend="gloo" if asked.cpu else "cpu:gloo,cuda:nccl"),
        scaling_config=ScalingConfig(num_workers=asked.processes, use_gpu=not asked.cpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()


if __name__ == "__main__":
    main()

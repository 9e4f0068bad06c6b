"""Device, number type and attention path: the fastest that works here, found by measuring. Nobody else asks.

Habit is a bad guide on CPUs: for the short sequences of small pictures torch's fused attention kernel can be six times
slower than two matrix products and a softmax, and bf16 is twice as fast as fp32 on a processor that has instructions
for it and up to hundreds of times slower on one that emulates them.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous import ranks
from vitreous.vit import ATTENTION_PATHS, Attention, use_attention


@dataclass(frozen=True)
class Plan:
    """How the step is computed on this machine."""

    device: torch.device
    precision: str
    """``fp32`` or ``bf16`` (automatic mixed precision: weights stay fp32)."""
    attention: str
    note: str
    """One sentence that says what was chosen and why."""

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context in which forward passes run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``. Raises ValueError where it is not there.

    Of several processes on a machine each takes a GPU of its own, by their numbers.
    """
    many = ranks.world() > 1
    if many and torch.cuda.is_available() and name in ("auto", "cuda"):
        if ranks.local() >= torch.cuda.device_count():
            raise ValueError(
                f"{torch.cuda.device_count()} GPUs here and more processes than that: start one a GPU "
                "(torchrun --nproc-per-node gpu), or use --device cpu"
            )
        return torch.device("cuda", ranks.local())
    if many and name not in ("auto", "cpu"):
        raise ValueError(f"device {name!r} cannot be shared by {ranks.world()} processes: use --device auto or cpu")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and not many else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: it is one of auto, cpu, cuda, mps") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise ValueError(f"device {name!r} is not available here: use --device cpu")
    return device


def choose(model: nn.Module, size: int, channels: int, precision: str, attention: str, by_clock: bool = True) -> Plan:
    """Measures the candidate ways to run one training step of ``model``, where it is, and sets it to the fastest.

    On a processor no step begins after ``PATIENCE``, so that of a large model the likely winner alone may be measured.

    ``precision`` and ``attention`` are ``auto`` or fix that choice. Not ``by_clock``, which would let a slow moment
    decide, they follow from the device alone, so that the same run is computed the same way again. Leaves the model's
    weights, and torch's random state, as they were. Several processes measure at once, as they will train, and the
    first one's figures count.
    """
    device = next(model.parameters()).device
    asked = "auto" not in (precision, attention)
    precisions, paths = [precision], [attention]
    if precision == "auto":  # the likely winner first, should there be time for no other, or no clock to decide
        precisions = ["bf16", "fp32"] if bf16_built_in(device) else ["fp32", "bf16"]
        if not by_clock or (device.type == "cpu" and not bf16_worth_trying(device)):
            precisions = precisions[:1]
    if attention == "auto":
        likely = "explicit" if device.type == "cpu" else "fused"
        paths = sorted(ATTENTION_PATHS, key=lambda path: path != likely)
        paths = paths if by_clock else paths[:1]
    if not any(isinstance(module, Attention) for module in model.modules()):
        paths = paths[:1]
    candidates = [(p, a) for p in precisions for a in paths]
    rates: dict[tuple[str, str], float] = {}
    if len(candidates) > 1:
        images = _noise(channels, size, device)
        begun, warm = time.perf_counter(), False
        with _buffers_restored(model):
            # in turn, so that a slow moment of the machine hits every one; the first step of all is slow and extra
            for candidate in [candidates[0], *candidates * ROUNDS]:
                start = time.perf_counter()
                if rates and device.type == "cpu" and start - begun > PATIENCE:
                    break
                use_attention(model, candidate[1])
                _train_step(model, images, Plan(device, *candidate, note=""))
                seconds = time.perf_counter() - start
                if warm or (device.type == "cpu" and seconds > PATIENCE):  # or there is no time for another
                    rates[candidate] = max(len(images) / seconds, rates.get(candidate, 0.0))
                warm = True
    candidates, rates = ranks.from_first(lambda: (candidates, rates))
    best, *others = sorted(rates or candidates, key=lambda candidate: -rates.get(candidate, 0.0))
    untried = len(candidates) - len(rates) if rates else 0
    use_attention(model, best[1])
    threads = torch.get_num_threads()
    name = f"{device}, {threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    note = f"{name}: {best[0]} with {best[1]} attention"
    if rates:
        slower = [f"{p} {a} {rates[p, a]:.0f}" for p, a in others] + [f"{untried} other ways not tried"] * (untried > 0)
        note += f", {rates[best]:.0f} images/s in a probe ({', '.join(slower)})"
    elif asked:
        note += ", as asked"
    elif not by_clock:
        note += ", taken without a probe, so that the run repeats exactly"
    return Plan(device, *best, note=note)


def holds(device: torch.device, nbytes: int) -> bool:
    """Whether so many bytes leave half of a GPU's free memory to the model; on any other device nothing is moved."""
    return device.type != "cuda" or 2 * nbytes <= torch.cuda.mem_get_info(device)[0]


def keep_memory() -> bool:
    """Lets this process keep the memory of freed arrays for the next ones; whether the system has the switch (glibc).

    Otherwise glibc gives every large array back to the system and asks for it again a moment later, a page at a time:
    22,000 page faults in a training step of the nano preset, a sixth of its time (docs/results.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    settings = ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_TOP_PAD, 64 << 20))
    return all(mallopt(number, value) for number, value in settings)


def bf16_worth_trying(device: torch.device) -> bool:
    """Whether steps in bf16 could be the faster ones: the device says that it has it, or its products show it.

    A small product alone can lose to an unlucky moment, and the run would pay for that to its end.
    """
    return bf16_built_in(device) or bf16_pays(device)


def bf16_pays(device: torch.device) -> bool:
    """Whether a bf16 matrix product is faster than an fp32 one; small, so that emulation costs little to find out."""
    a = torch.ones(128, 256, device=device)
    b = torch.ones(256, 256, device=device)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    return _fastest(lambda: (low_a @ low_b)[0, 0].item()) < _fastest(lambda: (a @ b)[0, 0].item())


def bf16_built_in(device: torch.device) -> bool:
    """Whether the device says that it computes in bf16, without trying."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    said, names = torch.cpu.get_capabilities(), ["avx512_bf16", "amx_bf16"]
    if platform.system() == "Linux":  # on other systems torch makes no use of what ARM processors have
        names += ["bf16", "sve_bf16"]
    return any(said.get(name, False) for name in names)


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second of a medium matrix product here, in the faster of fp32 and bf16."""
    low = torch.ones(1024, 512, dtype=torch.bfloat16, device=device)
    kinds = [low, low.float()] if device.type != "cpu" or bf16_worth_trying(device) else [low.float()]
    return max(2 * 1024 * 512 * 1024 / _fastest(lambda a=a: (a @ a.mT)[0, 0].item()) for a in kinds)  # type: ignore[misc]


def training_rate(model: nn.Module, size: int, channels: int) -> float:
    """Pictures a second of training steps of ``model``, where it is, on pictures of ``size`` pixels; changes the model.

    Measured on a few steps forwards and backwards in the number type and attention that suit the device. The update,
    which they lack, and the larger batches of a run about make up for each other (docs/log.md).
    """
    keep_memory()
    device = next(model.parameters()).device
    use_attention(model, "explicit" if device.type == "cpu" else "fused")
    plan = Plan(device, "bf16" if bf16_worth_trying(device) else "fp32", "", note="")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = _noise(channels, size, device)
    if device.type != "cpu":  # whose first step loads libraries, for seconds
        _train_step(model, images, plan)
    return len(images) / _fastest(lambda: _train_step(model, images, plan))


def hardware() -> dict[str, str | int]:
    """What a figure was measured on, for its provenance."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ]
        name = models[0] if models else name
    facts: dict[str, str | int] = {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


ROUNDS = 3
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
MOST, FEWEST = 32, 8
"""Pictures in a step of a probe: of large ones fewer, so that it stays a matter of seconds."""
PATIENCE = 2.0
"""Seconds after which a probe on a processor begins no further step: a large model's can take ten."""


def _noise(channels: int, size: int, device: torch.device) -> Tensor:
    """Pictures for a probe, (count, channels, size, size); torch's random state stays as it is."""
    count = max(FEWEST, min(MOST, MOST * 32**2 // size**2))
    images = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(device).contiguous(memory_format=torch.channels_last)


def _fastest(call: Callable[[], object], repeats: int = 2) -> float:
    """Seconds of the fastest of a few calls, after one that is not counted unless it already took a second."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    if first > 1.0:
        return first
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _train_step(model: nn.Module, images: Tensor, plan: Plan) -> None:
    with plan.autocast():
        scores = model(images)
    F.log_softmax(scores.float(), dim=1).mean().backward()
    model.zero_grad(set_to_none=True)
    if plan.device.type != "cpu":
        torch.accelerator.synchronize(plan.device)


@contextlib.contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Trains for a moment without a trace: batch statistics are put back."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])

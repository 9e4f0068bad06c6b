"""The fastest way is found by measuring, and looking for it changes nothing."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from vitreous import device
from vitreous.device import bf16_built_in, bf16_pays, choose, hardware, holds, pick_device, training_rate
from vitreous.models import build_model
from vitreous.vit import Attention, ViTConfig

SMALL = ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, classes=3, stem="conv")


@pytest.mark.parametrize(("nbytes", "fits"), [(50, True), (51, False)])
def test_pictures_leave_half_of_a_gpus_memory_to_the_model(
    nbytes: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (100, 1000))
    assert holds(torch.device("cuda"), nbytes) is fits
    assert holds(torch.device("cpu"), nbytes)


def test_the_probe_leaves_weights_buffers_and_random_state_as_they_were() -> None:
    model = build_model(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    plan = choose(model, 8, 3, "auto", "auto")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert plan.precision in ("fp32", "bf16")
    assert "images/s in a probe" in plan.note
    assert {module.path for module in model.modules() if isinstance(module, Attention)} == {plan.attention}


@pytest.mark.parametrize(("size", "count"), [(8, 32), (32, 32), (48, 14), (64, 8), (512, 8)])
def test_a_probe_takes_fewer_of_large_pictures(size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    now = 0.0

    def step(model: object, images: torch.Tensor, plan: device.Plan) -> None:
        nonlocal now
        now += 0.25
        shapes.add(tuple(images.shape))

    monkeypatch.setattr(device, "_train_step", step)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    model, random_state = build_model(SMALL), torch.get_rng_state()
    assert training_rate(model, size, 3) == count / 0.25
    choose(model, size, 3, "auto", "auto")
    assert shapes == {(count, 3, size, size)}
    assert torch.equal(torch.get_rng_state(), random_state)


def test_what_a_gpu_loads_at_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands in for one."""
    now, seconds = 0.0, iter([3.0, 0.1, 0.2, 0.1])

    def step(model: object, images: torch.Tensor, plan: device.Plan) -> None:
        nonlocal now
        now += next(seconds)

    monkeypatch.setattr(device, "bf16_worth_trying", lambda where: True)
    monkeypatch.setattr(device, "_train_step", step)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    assert training_rate(build_model(SMALL).to("meta"), 8, 3) == pytest.approx(32 / 0.1)


def test_a_larger_model_is_measured_as_slower() -> None:
    larger = ViTConfig(image_size=8, patch_size=1, width=128, depth=8, heads=4, classes=3)
    assert training_rate(build_model(SMALL), 8, 3) > 2 * training_rate(build_model(larger), 8, 3)


def test_what_was_asked_for_is_taken_without_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("probed")

    monkeypatch.setattr(device, "_train_step", forbidden)
    plan = choose(build_model(SMALL), 8, 3, "fp32", "explicit")
    assert (plan.precision, plan.attention, plan.device.type) == ("fp32", "explicit", "cpu")


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize("fastest", [("fp32", "fused"), ("fp32", "explicit"), ("bf16", "fused"), ("bf16", "explicit")])
def test_the_fastest_candidate_wins(built_in: bool, fastest: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = 0.0, 0

    def step(model: object, images: object, plan: device.Plan) -> None:
        nonlocal now, steps
        slow_start = 0.5 * (steps == 0)
        now += slow_start + (0.01 if (plan.precision, plan.attention) == fastest else 0.02)
        steps += 1

    monkeypatch.setattr(device, "bf16_built_in", lambda where: built_in)
    monkeypatch.setattr(device, "bf16_pays", lambda where: True)
    monkeypatch.setattr(device, "_train_step", step)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    plan = choose(build_model(SMALL), 8, 3, "auto", "auto")
    assert (plan.precision, plan.attention) == fastest


@pytest.mark.parametrize(
    ("built_in", "seconds", "steps"), [(True, 0.1, 13), (True, 0.9, 3), (True, 30.0, 1), (False, 30.0, 1)]
)
def test_a_probe_of_a_slow_model_ends_early(
    built_in: bool, seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, taken = 0.0, []

    def step(model: object, images: object, plan: device.Plan) -> None:
        nonlocal now
        now += seconds
        taken.append((plan.precision, plan.attention))

    monkeypatch.setattr(device, "bf16_built_in", lambda where: built_in)
    monkeypatch.setattr(device, "bf16_pays", lambda where: True)
    monkeypatch.setattr(device, "_train_step", step)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    model = build_model(SMALL)
    plan = choose(model, 8, 3, "auto", "auto")
    assert len(taken) == steps
    assert taken[0] == ("bf16" if built_in else "fp32", "explicit")
    assert (plan.precision, plan.attention) in taken
    assert {module.path for module in model.modules() if isinstance(module, Attention)} == {plan.attention}
    untried = {13: "images/s", 3: "2 other ways not tried", 1: "3 other ways not tried"}[steps]
    assert untried in plan.note
    assert ("not tried" in plan.note) == (steps < 13)


@pytest.mark.parametrize(
    ("built_in", "pays", "tried"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_bf16_is_tried_where_it_is_built_in_or_its_products_are_quick(
    built_in: bool, pays: bool, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = set()
    monkeypatch.setattr(device, "bf16_built_in", lambda where: built_in)
    monkeypatch.setattr(device, "bf16_pays", lambda where: pays)
    monkeypatch.setattr(device, "_train_step", lambda model, images, plan: precisions.add(plan.precision))
    choose(build_model(SMALL), 8, 3, "auto", "auto")
    assert precisions == ({"fp32", "bf16"} if tried else {"fp32"})


def test_asking_the_products_gives_an_answer_on_any_machine() -> None:
    assert isinstance(bf16_pays(torch.device("cpu")), bool)


def test_devices_that_are_not_there_are_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not available here: use --device cpu"):
            pick_device("cuda")


def test_hardware_says_what_a_figure_was_measured_on() -> None:
    facts = hardware()
    assert {"cpu", "threads", "torch", "python", "system"} <= set(facts)
    assert facts["torch"] == torch.__version__


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_memory_of_freed_arrays_is_kept_so_that_the_next_ones_cost_no_page_faults() -> None:
    code = (
        "import resource, torch; from vitreous.device import keep_memory; assert keep_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(4): some = [torch.ones(12 << 20) for _ in range(4)]; del some\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); print(faults())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # 200,000 without


@pytest.mark.parametrize(
    ("system", "said", "built_in"),
    [
        ("Windows", {"avx512_bf16": True}, True),
        ("Linux", {"amx_bf16": True}, True),
        ("Linux", {"avx2": True, "avx512_bf16": False}, False),
        ("Linux", {"bf16": True}, True),
        ("Darwin", {"bf16": True}, False),
    ],
)
def test_bf16_counts_as_built_in_where_torch_makes_use_of_it(
    system: str, said: dict[str, bool], built_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said, raising=False)
    assert bf16_built_in(torch.device("cpu")) is built_in


@pytest.mark.parametrize("said", [True, False])
def test_an_older_torch_is_asked_for_bf16_as_it_can_be(said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: said, raising=False)
    assert bf16_built_in(torch.device("cpu")) is said
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert bf16_built_in(torch.device("cpu")) is False


@pytest.mark.parametrize(("said", "precision"), [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32")])
def test_a_run_that_repeats_exactly_is_not_decided_by_a_clock(
    said: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("probed")

    monkeypatch.setattr(device, "_train_step", forbidden)
    monkeypatch.setattr(device, "bf16_pays", forbidden)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said, raising=False)
    plan = choose(build_model(SMALL), 8, 3, "auto", "auto", by_clock=False)
    assert (plan.precision, plan.attention) == (precision, "explicit")
    asked = choose(build_model(SMALL), 8, 3, "fp32", "fused", by_clock=False)
    assert (asked.precision, asked.attention) == ("fp32", "fused")

"""`raycodellm check --prices`: hours and money of a sweep, and equal arms in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from raycodellm import cli, cluster
from raycodellm.check import costs, prices, trees
from raycodellm.check.arm_ranges import in_ranges
from raycodellm.check.costs import Hardware, Hours
from raycodellm.check.prices import Device, Machine, Prices
from raycodellm.cluster import Node
from raycodellm.cluster.capacity import device_of
from raycodellm.config import Scaling, UserError
from raycodellm.device_peaks import listed_peak_flops
from raycodellm.tables import formats, stage_tree, tree_lines

QUICKSTART = str(Path(__file__).parents[1] / "sweeps" / "quickstart.yaml")


def check(capsys, tmp_path, *words: str) -> tuple[int, str]:
    code = cli.main(["check", QUICKSTART, "--storage", str(tmp_path), *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


ON_GPUS = ("--set", "scaling.gpus_per_worker=1", "--set", "model={preset: small}", "--set", "scaling.slots=2")


def test_check_prints_the_money_of_a_sweep_on_a_device_that_is_not_here(capsys, tmp_path):
    code, printed = check(capsys, tmp_path, "--prices", "--device", "L4", *ON_GPUS)
    assert code == 0
    for words in (
        "L4 hours",
        "0–2",
        "each",
        "sweep, equal stages once",
        "head node",
        "in all",
        "g6.2xlarge",
        "prices move",
    ):
        assert words in printed
    assert "with 2 devices at once" in printed and "on L4, wherever that is" in printed


def test_the_cost_of_a_sweep_with_more_arms_than_are_planned_is_that_of_all(capsys, tmp_path, monkeypatch):
    alike = ("pretrain.code_ratio={search: {uniform: [0.1, 0.5]}}", "search={trials: 8, sampler: random}")
    words = [word for one in alike for word in ("--set", one)]

    def flops() -> str:
        code, printed = check(capsys, tmp_path, *words)
        assert code == 0
        return next(line.split()[1] for line in printed.splitlines() if line.startswith("training:"))

    whole = flops()
    monkeypatch.setattr("raycodellm.check.plan.MOST_TRIALS", 2)
    assert flops() == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prices", *ON_GPUS), "with --device, one of: L4, A10G"),
        (("--prices", "--device", "X9", *ON_GPUS), "devices: {X9: {on_demand: PRICE"),
        (("--device", "X9", *ON_GPUS), "`devices: {X9: {tflops: PEAK, on_demand: PRICE}}`"),
        (("--prices", "--device", "L4"), "scaling.gpus_per_worker=1"),
        (("--prices", "no-such-file.yaml"), "no-such-file.yaml: cannot be read"),
        (("--prices", "--device", "L4", *ON_GPUS, "--set", "model={preset: 2.8b}"), "has 22.3 GiB"),
    ],
)
def test_what_cannot_be_priced_is_refused_with_what_would_work(capsys, tmp_path, words, said):
    code, printed = check(capsys, tmp_path, *words)
    assert code == 2 and said in printed and len(printed.splitlines()) == 1


def test_a_users_prices_come_before_the_packages(tmp_path):
    own = tmp_path / "prices.yaml"
    own.write_text("devices: {l4: {on_demand: 2}, X9: {on_demand: 8, devices: 4, tflops: 500}}\n")
    known = prices.load(str(own))
    assert known.device("L4").on_demand == 2 and known.device("x9").tflops == 500
    assert known.device("H100") == prices.load().device("H100") and known.head == prices.load().head
    own.write_text(
        "currency: EUR\ndevices: {L4: {on_demand: 2}}\n"
    )  # dollars of the package would not add up with these
    assert prices.load(str(own)) == Prices(currency="EUR", devices={"L4": Device(on_demand=2)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: {L4: {on_demand: -1}}", "devices.L4.on_demand: must be greater than 0"),
        ("devices: {L4: {ondemand: 1}}", "devices.L4.on_demand: field required"),
        ("prices: 3", "prices: extra inputs"),
        ("[1, 2", "prices.yaml"),
    ],
)
def test_a_wrong_prices_file_is_refused_by_its_key(tmp_path, text, said):
    own = tmp_path / "prices.yaml"
    own.write_text(text)
    with pytest.raises(UserError) as caught:
        prices.load(str(own))
    assert said in str(caught.value) and str(own) in str(caught.value)


@pytest.mark.parametrize(
    ("hours", "shown"), [(1.7e-5, "1.7e-05"), (4.23, "4.2"), (43.6, "44"), (123.0, "120"), (1_003.0, "1,000")]
)
def test_hours_are_shown_in_two_digits_and_large_ones_in_full(hours, shown):
    assert formats.rounded(hours, 2) == shown


def test_every_device_of_the_package_has_a_speed_a_place_and_a_day():
    shipped = prices.load()
    assert shipped.head is not None and shipped.head.date is not None
    for name, device in shipped.devices.items():
        assert name == "CPU" or listed_peak_flops(name, "bf16") is not None
        assert device.date is not None and device.where and device.machine
        assert device.spot is None or device.spot < device.on_demand


@pytest.mark.parametrize(
    ("name", "machine"), [("NVIDIA L4", "l4"), ("A100-40G", "a100"), ("l40s", "l40s"), ("L4", "l4")]
)
def test_a_device_is_found_by_the_name_that_ray_gives_it(name, machine):
    known = Prices(devices={key: Device(machine=key.lower(), on_demand=1) for key in ("L4", "L40S", "A100", "GCP L4")})
    assert known.device(name).machine == machine


def test_money_is_hours_times_price_with_the_head_for_as_long_as_the_sweep_takes():
    known = Prices(head=Machine(machine="head", on_demand=1.0), devices={})
    device = Device(machine="eight", devices=8, on_demand=16.0, spot=8.0)  # 2.00 and 1.00 per device
    scaling = Scaling(workers=2, gpus_per_worker=1)
    lines = costs.money_lines(Hours((10.0, 10.0, 30.0), 40.0), device, known, scaling, slots=2)
    rows = {line.split("  ")[1]: line.split() for line in lines[2:7]}
    assert rows["0–1"][1:] == ["10", "20.00", "10.00", "each"]
    assert rows["2"][1:] == ["30", "60.00", "30.00"]
    assert rows["in all"][2:] == ["40", "90.00", "50.00"]  # 4 devices at once: the head for 10 hours
    assert "8 devices 16 on demand, 8 spot" in lines[-2]


def test_hours_follow_the_devices_peak_and_the_precision():
    h100, l4 = (Hardware(name, on_gpus=True).flops_per_second("bf16") for name in ("H100", "L4"))
    assert h100 / l4 == pytest.approx(989.4 / 121)
    assert Hardware("l4", True).flops_per_second("fp32") == pytest.approx(0.4 * 30.3e12)
    assert Hardware("X9", True, tflops=500).flops_per_second("bf16") == pytest.approx(0.4 * 500e12)
    assert Hardware(None, True).flops_per_second("bf16") == h100


# ------------------------------------------------------------------------------------------------- equal arms


def lines_of(chains: list[list[str]], num_seeds: int = 1) -> list[str]:
    keys = {key for chain in chains for key in chain}
    tree = stage_tree(enumerate(chains), lambda key, trials: (key.split("-")[0], f"{len(trials)}×"))
    return [" ".join(line.split()) for line in tree_lines(trees.merged(tree, {key: key for key in keys}, num_seeds))]


def test_arms_with_equal_stages_take_one_line_and_others_keep_theirs():
    assert lines_of([["a-1", "b-1"], ["a-2", "b-2"], ["a-3", "b-3"]]) == ["a 1×, once for each of arms 0–2", "b 1×"]
    assert lines_of([["a-1", "b-1"], ["a-2"], ["a-3", "b-3"]]) == ["a 1×, once for each of arms 0, 2", "b 1×", "a-2 1×"]
    assert lines_of([["a-1", "b-1"]]) == ["a-1 1×", "b-1 1×"]


def test_a_shared_stage_stays_one_line_with_its_equal_children_below():
    assert lines_of([["a-1", "b-1"], ["a-1", "b-2"]]) == ["a-1 2×", "b 1×, once for each of arms 0–1"]
    two_seeds = [["a-1", "b-1"], ["a-2", "b-2"], ["a-1", "b-3"], ["a-2", "b-4"]]
    assert lines_of(two_seeds, num_seeds=2) == ["a 2×, 2 times, for arms 0–1", "b 1×, 2 times"]


def test_numbers_of_arms_are_written_as_ranges():
    assert in_ranges([5, 0, 1, 2, 7, 2]) == "0–2, 5, 7" and in_ranges([]) == ""


# ------------------------------------------------------------------------------------------------- a joined cluster


def test_the_device_of_a_joined_cluster_is_priced_also_while_no_gpu_node_runs(capsys, tmp_path, monkeypatch):
    gpu = {"resources": {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}, "max_workers": 4}
    tree = {"max_workers": 4, "head_node_type": "head", "available_node_types": {"head": {}, "gpu": gpu}}
    found = SimpleNamespace(
        nodes=(Node(8),),
        autoscaled=cluster.read_autoscaler(tree).addable_nodes([Node(8)]),
        limits_known=True,
        placement_problem=lambda scaling: None,
        slots_that_fit=lambda scaling: 4,
    )
    monkeypatch.setattr(cluster, "connect", lambda address, scaling, log_to: found)
    auto = ("--set", "scaling.slots=auto", "--set", "scaling.gpus_per_worker=1")
    code, printed = check(capsys, tmp_path, "--prices", "--address", "10.0.0.5:6379", *auto)
    assert code == 0 and "g6.2xlarge" in printed and "with 4 devices at once" in printed
    assert "the cluster at 10.0.0.5:6379 holds 4 at once" in printed
    found.autoscaled = ()  # nothing tells which GPUs the cluster has
    code, printed = check(capsys, tmp_path, "--prices", "--address", "10.0.0.5:6379", *auto)
    assert code == 2 and "--device" in printed


def test_ray_names_the_gpus_of_a_node_among_its_resources():
    assert device_of({"CPU": 8, "GPU": 1, "accelerator_type:A10G": 1}) == "A10G" and device_of({"CPU": 8}) == ""

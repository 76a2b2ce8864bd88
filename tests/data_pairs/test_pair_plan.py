"""What cleaning costs: arithmetic against numbers worked out by hand, and rates measured on real pairs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_pairs import jpeg, pair

from qvl.cli import main
from qvl.data.pairs import rates as rates_module
from qvl.data.pairs.plan import Cluster, Plan, make_plan, table_2
from qvl.data.pairs.rates import AFTER_RULES, BEFORE_RULES, CLIP, Rates, bundled_rates, measure_rates
from qvl.data.pairs.rules import RULES
from qvl.data.pairs.sources import load_source
from qvl.errors import DataError, UsageError

SECONDS = {
    **{"read": 1.0, "check": 2.0, "columns": 3.0},
    **dict.fromkeys(RULES, 0.5),
    **{"clip_prepare": 10.0, "clip_model": 40.0},
    **{"sample": 5.0, "write": 15.0},
}
RATES = Rates("a slow machine", 100_000, SECONDS)
LAION, SBU = load_source("laion_en"), load_source("sbu")  # 9 rules each kept 14 %; 8 rules, 80 %, none by CLIP


def plan(cluster: Cluster, picture_bytes: float | None = None, clip: bool = False) -> Plan:
    return make_plan([(LAION, 3600.0), (SBU, 1800.0)], RATES, cluster, picture_bytes=picture_bytes, clip=clip)


def limits(made: Plan) -> dict[str, float]:
    return {limit.name: limit.hours for limit in made.limits}


def test_hours_are_pairs_times_seconds_of_what_each_step_sees() -> None:
    made = plan(Cluster(machines=2, cores=5))
    before, rules = 6 * 3600 + 6 * 1800, 9 * 0.5 * 3600 + 9 * 0.5 * 1800
    after = 20 * (0.14 * 3600 + 0.8 * 1800)
    assert made.kept == pytest.approx({"laion_en": 504, "sbu": 1440})
    assert made.cpu_hours == pytest.approx((before + rules + after) / 3600)
    assert limits(made) == pytest.approx({"cores": made.cpu_hours / 10})
    assert made.bound.name == "cores"
    moved = (3600 + 1800 + 504 + 1440) * 100_000
    assert made.bytes_per_second == pytest.approx(moved / (made.bound.hours * 3600))


def test_steps_that_read_pictures_go_with_their_size_and_the_rules_do_not() -> None:
    small, large = plan(Cluster(1, 1)), plan(Cluster(1, 1), picture_bytes=200_000)
    seconds = {step.name: step.seconds for step in large.steps}
    for step in small.steps:
        assert seconds[step.name] == step.seconds * (1 if step.name in RULES else 2)


def test_slow_storage_is_the_bound() -> None:
    made = plan(Cluster(1, 10**6, storage=50_000))
    assert made.bound.name == "storage"
    assert made.bound.hours == pytest.approx((3600 + 1800 + 504 + 1440) * 100_000 / 50_000 / 3600)
    assert made.bytes_per_second == pytest.approx(50_000)


def test_a_model_scores_the_sources_that_ask_for_it_on_cores_or_devices() -> None:
    without, on_cores = plan(Cluster(1, 1)), plan(Cluster(1, 1), clip=True)
    assert on_cores.cpu_hours == pytest.approx(without.cpu_hours + 50)  # laion_en alone
    on_devices = plan(Cluster(1, 10**6, devices=2, device_rate=0.25), clip=True)
    assert on_devices.cpu_hours == pytest.approx(without.cpu_hours + 10)
    assert limits(on_devices)["devices"] == pytest.approx(2)
    assert on_devices.bound.name == "devices"


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match="cores 0"):
        Cluster(1, 0)
    with pytest.raises(UsageError, match="devices and their rate"):
        Cluster(1, 1, devices=4)
    with pytest.raises(UsageError, match="pictures of 0 bytes"):
        plan(Cluster(1, 1), picture_bytes=0)
    with pytest.raises(UsageError, match="comes twice among sbu, sbu"):
        make_plan([(SBU, 1.0), (SBU, 2.0)], RATES, Cluster(1, 1))
    slow = replace(RATES, seconds={k: v for k, v in SECONDS.items() if k not in CLIP})
    with pytest.raises(UsageError, match="no rate of clip_prepare"):
        make_plan([(LAION, 1.0)], slow, Cluster(1, 1), clip=True)


def test_the_package_has_rates_of_every_step_and_the_papers_five_billion() -> None:
    assert set(bundled_rates().seconds) == {*BEFORE_RULES, *RULES, *CLIP, *AFTER_RULES}
    assert all(seconds > 0 for seconds in bundled_rates().seconds.values())
    made = make_plan(table_2(), bundled_rates(), Cluster(1, 1))
    assert sum(made.pairs.values()) == pytest.approx(5.0446e9)
    assert sum(made.kept.values()) == pytest.approx(1.4174e9)


def test_rates_are_those_of_the_steps(
    tmp_path: Path, make_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock ticks once a look: each visit of a step, but for what it holds of others, is a second."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(rates_module.time, "process_time", lambda: float(next(ticks)))
    monkeypatch.setattr(rates_module, "PAIRS", 5)
    picture = jpeg()
    make_tar("a", *(pair(str(i), image=picture) for i in range(3)), pair("cut", image=picture[:200]))
    make_tar("b", *(pair(str(i), "x" if i else "a red kite", image=picture) for i in range(9)))
    rates = measure_rates([tmp_path / "raw"], "in_house")
    assert list(rates.seconds) == [*BEFORE_RULES, *RULES, *AFTER_RULES]
    assert rates.picture_bytes == len(picture)
    assert rates.measured_on.endswith("5 pairs")
    assert rates.seconds["check"] == 1.0
    assert rates.seconds["sample"] == 1.0
    assert rates.seconds["aspect_ratio"] == pytest.approx(2 / 4, rel=0.01)  # two batches of four sound pairs


def test_rates_need_pairs_that_pass(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    make_tar("a", pair("1", "x"))
    with pytest.raises(DataError, match="none of 1 pairs passes"):
        measure_rates([tmp_path / "raw"], "in_house")


def test_the_command_names_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "plan", "--machines", "2", "--cores", "8", "--storage", "0.001"]
    assert main([*command, "--pairs", "laion_en=1e6", "--pairs", "sbu=1000", "--kilobytes", "50"]) == 0
    printed = capsys.readouterr().out
    assert "/ 0.001 GB/s = 15.9" in printed
    assert "hours  <- the bound" in printed
    for wrong in ("laion_en", "laion_en=many", "=5", "laion_en=-1"):
        assert main(["data", "plan", "--pairs", wrong]) == UsageError.exit_code
        assert f"--pairs {wrong}: SOURCE=N is needed" in capsys.readouterr().err

"""The plans of the published recipes, numbers that can be reckoned by hand, and what the command says."""

import json
from pathlib import Path

import pytest

from qvl.cli import main
from qvl.errors import QvlError, RecipeError, UsageError
from qvl.model.config import PRESETS
from qvl.train.devices import device_named
from qvl.train.flops import step_operations
from qvl.train.planner import Plan, plan, share_batches
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.workload import TYPICAL, expected_step, fullest_batch

RECIPES = Path("recipes")
STAGES = ("pretrain", "multitask", "sft")
ONE_BASE = [f"init_from.{part}=base" for part in ("vision", "adapter", "language")]


def recipe_of(stage: str, *values: str) -> Recipe:
    return load_recipe(RECIPES / f"{stage}.toml", list(values))


def planned(stage: str, gpus: int, *values: str, device: str = "h100") -> Plan:
    return plan(recipe_of(stage, *values), device_named(device), gpus)


def test_the_published_model_has_9_66_billion_parameters() -> None:
    weights = planned("pretrain", 8).weights
    assert sum(weights.values()) == pytest.approx(9.66e9, rel=1e-3)
    assert weights["vision"] == pytest.approx(1.84e9, rel=5e-3)
    assert weights["language"] == pytest.approx(7.72e9, rel=1e-3)


def test_stage_1_reads_the_paper_s_samples() -> None:
    """1.5 billion pairs: 30,720 a step, 50,000 steps; each a picture, its 258 places and a caption."""
    step = planned("pretrain", 8).step
    assert step.samples * 50000 == pytest.approx(1.5e9, rel=0.03)
    assert step.work.images == 30720
    assert step.tokens == 30720 * (258 + TYPICAL["caption"].text)


def test_stage_2_packs_about_the_paper_s_samples() -> None:
    """Rows of four samples: a batch of 4,096 (Table 8) in 1,024 rows, 98 % full; 77 million samples in all."""
    recipe = recipe_of("multitask")
    step = expected_step(recipe, PRESETS["qwen-vl"])
    assert step.samples == pytest.approx(4096, rel=0.05)
    assert step.tokens == pytest.approx(0.98 * 1024 * 2048, rel=1e-3)
    assert step.samples * recipe.steps == pytest.approx(77e6, rel=0.05)
    assert len(step.work.documents) == 1024  # samples of a row see each other


def test_isolated_samples_see_themselves_alone() -> None:
    config = PRESETS["qwen-vl"]
    isolated = expected_step(recipe_of("multitask", "data.packing=isolated"), config).work
    together = expected_step(recipe_of("multitask"), config).work
    assert sum(isolated.documents) == pytest.approx(sum(together.documents), rel=0.01)
    assert max(isolated.documents) == 258 + 600
    fewer = [step_operations(config, ("language",), work).language for work in (isolated, together)]
    assert fewer[0] < fewer[1]


def test_the_fullest_rows_hold_seven_pictures_or_text_alone() -> None:
    batch = fullest_batch(recipe_of("multitask"), PRESETS["qwen-vl"])
    assert (batch.rows, batch.tokens, batch.images, batch.supervised) == (1, 2048, 7, 2048)
    unpacked = fullest_batch(recipe_of("pretrain"), PRESETS["qwen-vl"])
    assert (unpacked.rows, unpacked.tokens, unpacked.images, unpacked.supervised) == (10, 512, 10, 10 * (512 - 258))


def test_the_paper_s_own_choices_fit_80_gb_and_less_would_not() -> None:
    """Table 8: optimizer sharding; stages 2 and 3 with two-way model parallelism, no activation checkpointing."""
    for stage in STAGES:
        own = planned(stage, 64).own
        assert own is not None
        assert own.fits, stage
    alone = planned("multitask", 64, "parallel.tensor=1").own
    assert alone is not None
    assert not alone.fits


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_the_recommended_way_fits_and_none_that_works_is_faster(stage: str, gpus: int) -> None:
    result = planned(stage, gpus)
    assert len(result.ways) == 12
    best = result.best
    if (stage, gpus) == ("sft", 512):
        assert best is None  # 128 rows a step
        return
    assert best is not None
    assert best.memory.total <= 80e9
    working = [way for way in result.ways if way.works]
    assert min(way.seconds for way in working) >= best.seconds / 1.02
    assert best.batches is not None
    dealt = best.batches.batch_rows * best.batches.streams * best.batches.grad_accumulation
    assert dealt == result.rows
    assert best.batches.streams % best.data_ranks == 0


def test_time_is_operations_over_what_the_gpus_reach() -> None:
    result = plan(recipe_of("pretrain"), device_named("h100"), 64, assumed_mfu=0.5)
    best = result.best
    assert best is not None
    assert best.seconds == pytest.approx(result.operations / (64 * 989.4e12 * 0.5))
    assert best.mfu == pytest.approx(0.5)
    again = next(way for way in result.ways if way.parallel.checkpoint_activations and way.parallel.tensor == 1)
    assert again.mfu < 0.4  # blocks run twice


def test_slow_links_show_where_ranks_share_samples() -> None:
    """Each block's outputs are added up among them, which no computing hides."""
    longer = {}
    for device in ("h100", "l40s"):
        ways = planned("pretrain", 8, device=device).ways
        one, two = (next(way for way in ways if way.parallel.tensor == tensor) for tensor in (1, 2))
        longer[device] = two.seconds / one.seconds
    assert 1 < longer["h100"] < 1.15
    assert longer["l40s"] > 1.3


@pytest.mark.parametrize(
    ("stage", "ranks", "dealt"),
    [
        ("pretrain", 8, (10, 512, 6)),
        ("multitask", 256, (1, 256, 4)),
        ("pretrain", 3072, (10, 3072, 1)),
        ("pretrain", 15360, (2, 15360, 1)),  # fewer rows at once
        ("pretrain", 48, (10, 48, 64)),
        ("multitask", 6, None),  # 1,024 rows among 6
        ("sft", 256, None),
    ],
)
def test_rows_of_a_step_are_dealt_anew_where_streams_can_t_be_shared(
    stage: str, ranks: int, dealt: tuple[int, int, int] | None
) -> None:
    batches = share_batches(recipe_of(stage), ranks)
    assert (None if batches is None else (batches.batch_rows, batches.streams, batches.grad_accumulation)) == dealt


@pytest.mark.parametrize(
    ("values", "gpus", "mfu", "error", "said"),
    [
        ([], 0, 0.4, UsageError, "--gpus 0: at least 1"),
        ([], 8, 1.5, UsageError, "--mfu 1.5: expected a share"),
        (["image_size=225"], 8, 0.4, RecipeError, "image_size = 225"),
        (["preset=qwen"], 8, 0.4, RecipeError, "known preset"),
        (["lora={}", *ONE_BASE], 8, 0.4, RecipeError, "[lora]: adapters can't be planned"),
    ],
)
def test_what_can_t_be_planned_is_named(
    values: list[str], gpus: int, mfu: float, error: type[QvlError], said: str
) -> None:
    with pytest.raises(error) as raised:
        plan(recipe_of("pretrain", *values), device_named("h100"), gpus, mfu)
    assert said in str(raised.value)


def test_the_vision_warm_up_is_not_planned() -> None:
    with pytest.raises(RecipeError, match="only stages that learn next tokens"):
        plan(load_recipe(RECIPES / "tiny" / "warmup_vision.toml"), device_named("h100"), 1)


def said_by(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_a_plan_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = said_by(capsys, "recipes/multitask.toml", "--gpus", "512", "--device", "h100")
    lines = page.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 110
    assert "9.66B parameters" in page
    assert [line[0] for line in lines[7:19]].count(">") == 1
    assert "256 ranks can't share 128 streams evenly" in page
    assert "--set data.streams=256 --set grad_accumulation=4" in page


def test_what_to_set_makes_the_plan_s_best_way_the_recipe_s(capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads(said_by(capsys, "recipes/sft.toml", "--gpus", "64", "--device", "a100-40g", "--json"))
    best = next(way for way in first[0]["ways"] if way["recommended"])
    assert "data.streams=64" in best["set"]
    values = [part for value in best["set"] for part in ("--set", value)]
    again = json.loads(said_by(capsys, "recipes/sft.toml", "--gpus", "64", "--device", "a100-40g", "--json", *values))
    settled = next(way for way in again[0]["ways"] if way["recommended"])
    assert settled["set"] == []
    assert settled["memory_bytes"] == best["memory_bytes"]


def test_too_many_gpus_are_told_how_many_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    page = said_by(capsys, "recipes/sft.toml", "--gpus", "512", "--device", "h100")
    assert "256 ranks can't share the 128 rows of a step" in page
    assert "take 128 GPUs with" in page


def test_where_nothing_fits_it_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing fits; the least is" in said_by(
        capsys, "recipes/pretrain.toml", "--gpus", "2", "--device", "rtx4090"
    )


def test_several_stages_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's whole run: stage 1 is most of it."""
    recipes = [f"recipes/{stage}.toml" for stage in STAGES]
    page = said_by(capsys, *recipes, "--gpus", "64", "--device", "h100")
    assert page.splitlines()[-1].startswith("together  1.89e22 FLOP")


def test_a_device_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipes/sft.toml", "--gpus", "8", "--device", "h1000"]) == 2
    assert "did you mean 'h100'?" in capsys.readouterr().err

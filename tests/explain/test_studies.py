"""The ablations: a study at a few steps from end to end, and verdicts on made-up numbers."""

import json
import re
import shutil
from pathlib import Path

import pytest

from qvl.checkpoint import save_model
from qvl.cli import main, study
from qvl.data.sample import LANGUAGES, write_shard
from qvl.data.world.tasks import make_sample
from qvl.explain.studies import run
from qvl.explain.studies.ablations import STUDIES, attention_claims, query_claims
from qvl.explain.studies.results import Results, Seconds
from qvl.explain.studies.verdict import AGREES, CONTRADICTS, UNDECIDED, Claim, verdict
from qvl.model.config import PRESETS, VisionConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import load_recipe
from qvl.train.stage import build_loader, model_config

QUERIES, ATTENTION = (list(STUDIES[name].variants) for name in ("queries", "attention"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a study begins from: captions, and warm-ups that have not learned anything."""
    folder = tmp_path_factory.mktemp("start")
    samples = [make_sample(1, "train", i, "caption", language) for language in LANGUAGES for i in range(12)]
    write_shard(samples, folder / "world" / "train" / "00000.parquet")
    tokenizer = Tokenizer.tiny()
    model = QwenVL(model_config(load_recipe(study.STUDY_RECIPE), tokenizer))
    model.initialize(1)
    for stage in ("warmup_vision", "warmup_text"):
        save_model(model, folder / stage / "checkpoint", tokenizer)
    return folder


@pytest.fixture
def small_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, found = re.subn(r"(?m)^batch_rows = .*$", "batch_rows = 2", study.STUDY_RECIPE.read_text(encoding="utf-8"))
    assert found == 1
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(study, "STUDY_RECIPE", tmp_path / "study.toml")
    monkeypatch.setattr(run, "TIMED_ROUNDS", 2)


def command(name: str, start: Path, out: Path, *more: str) -> list[str]:
    return ["study", name, "--run", str(start), "--out", str(out), "--steps", "3", *more]


@pytest.mark.usefixtures("small_recipe")
@pytest.mark.parametrize("name", ["queries", "attention"])
def test_a_study_goes_from_warm_ups_to_its_page_and_runs_nothing_twice(
    name: str, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(name, start, out, "--seeds", "1")) == 0
    assert f"page: {out / 'study.html'}" in capsys.readouterr().out
    losses = json.loads((out / "losses.json").read_text())
    assert list(losses) == list(STUDIES[name].variants)
    assert all(len(curves) == 1 and len(curves[0]) == 3 for curves in losses.values())
    assert len({curves[0][0] for curves in losses.values()}) == len(losses), "each variant computes something else"
    page = (out / "study.html").read_text(encoding="utf-8")
    assert "data:image/png" in page
    assert all(variant in page for variant in losses)
    assert (out / "seconds.json").exists() == (name == "attention")
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")

    kept = [path for pattern in ("*-seed-1/log.jsonl", "seconds.json") for path in out.glob(pattern)]
    before = [path.stat().st_mtime_ns for path in kept]
    shutil.rmtree(out / f"{next(iter(losses)).replace(' ', '-')}-seed-1" / "checkpoint")  # as if killed there
    assert main(command(name, start, out, "--seeds", "1")) == 0
    again = [path.stat().st_mtime_ns for path in kept]
    assert sum(a != b for a, b in zip(before, again, strict=True)) == 1
    assert json.loads((out / "losses.json").read_text()) == losses, "the same start gives the same losses"


@pytest.mark.usefixtures("small_recipe")
def test_another_study_in_the_same_folder_is_refused(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "16-queries-seed-1").mkdir(parents=True)
    (out / "16-queries-seed-1" / "recipe.json").write_text('{"steps": 7}')
    assert main(command("queries", start, out)) == 3
    assert "give another --out" in capsys.readouterr().err


def test_a_run_without_warm_ups_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("queries", tmp_path, tmp_path / "out")) == 2
    assert f"{tmp_path}: no finished warmup_vision here" in capsys.readouterr().err
    assert main(command("queries", tmp_path, tmp_path / "out", "--seeds", "0")) == 2
    assert "--seeds 0: at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_variants_keep_the_paper_s_ratios() -> None:
    """Queries to patches as 64, 144, 256 and 400 to 256; windows of 224 pixels in pictures of 448 and 896."""
    tokenizer = Tokenizer.tiny()

    def vision(name: str) -> list[VisionConfig]:
        recipes = (load_recipe(study.STUDY_RECIPE, list(changes)) for changes in STUDIES[name].variants.values())
        return [model_config(recipe, tokenizer).vision for recipe in recipes]

    assert [v.num_queries / v.grid**2 for v in vision("queries")] == [n / 256 for n in (64, 144, 256, 400)]
    assert [v.attention_window / v.grid for v in vision("attention")] == [224 / 448, 0, 224 / 896, 0]
    assert [v.image_size for v in vision("attention")] == [112, 112, 224, 224]
    assert {v.num_queries for v in vision("attention")} == {PRESETS["tiny"].vision.num_queries}


def test_all_variants_see_the_same_samples(start: Path) -> None:
    tokenizer = Tokenizer.tiny()
    seen = []
    for changes in STUDIES["queries"].variants.values():
        recipe = load_recipe(study.STUDY_RECIPE, [*changes, "data.batch_rows=8"])
        batches = iter(build_loader(recipe, start, model_config(recipe, tokenizer), tokenizer))
        seen.append([next(batches)[0].sample_ids for _ in range(3)])
    assert all(ids == seen[0] for ids in seen)


def flat(start: float, end: float, seeds: int = 3) -> list[list[float]]:
    """Curves of ten steps: `start` at first, `end` later, and a little more with every seed."""
    return [[start + 0.01 * seed] * 5 + [end + 0.01 * seed] * 5 for seed in range(seeds)]


def outcomes(claims: list[Claim]) -> list[str]:
    return [claim.outcome for claim in claims]


def test_the_paper_s_curves_of_queries_agree_and_turned_round_they_do_not() -> None:
    paper = [(2.0, 1.5), (2.1, 1.4), (2.2, 1.3), (2.3, 1.4)]
    results = Results({name: flat(*levels) for name, levels in zip(QUERIES, paper, strict=True)})
    # The seeds move all variants alike: their differences have no spread but the rounding.
    assert outcomes(query_claims(results)) == [AGREES] * 3
    turned = Results({name: flat(-start, -end) for name, (start, end) in zip(QUERIES, paper, strict=True)})
    assert outcomes(query_claims(turned)) == [CONTRADICTS] * 3


def test_the_paper_s_seconds_agree() -> None:
    losses = {name: flat(2.0, 1.5 if "window" in name else 1.4) for name in ATTENTION}
    paper = dict(zip(ATTENTION, (9.0, 10.0, 25.0, 60.0), strict=True))
    seconds = {n: Seconds([0.0] * 3, [s, s * 1.01, s * 0.99]) for n, s in paper.items()}
    assert outcomes(attention_claims(Results(losses, seconds))) == [AGREES] * 5
    same = {n: Seconds([0.0] * 3, [9.0, 9.1, 8.9] if "window" in n else [9.1, 8.9, 9.0]) for n in paper}
    assert outcomes(attention_claims(Results(losses, same)))[2:] == [UNDECIDED] * 3


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ((0.10, 0.11, 0.12), AGREES),
        ((-0.10, -0.11, -0.12), CONTRADICTS),
        ((0.05, 0.10, 0.20), UNDECIDED),  # all above zero, yet three seeds so far apart don't settle it
        ((0.5,), UNDECIDED),  # one seed has no spread
    ],
)
def test_the_spread_over_seeds_decides(differences: tuple[float, ...], outcome: str) -> None:
    assert Claim("It holds", "a minus b", differences).outcome == outcome


def test_the_interval_is_student_s() -> None:
    claim = Claim("It holds", "a minus b", (0.1, 0.2, 0.3))
    assert claim.half_width == pytest.approx(4.30 * 0.1 / 3**0.5)
    assert claim.sentence() == "It holds: undecided (a minus b: +0.200, ± 0.248, 95 % interval of 3)."
    assert Claim("It holds", "a minus b", (0.5,)).sentence() == "It holds: undecided (a minus b: +0.500, a single one)."


def test_the_verdict_says_what_is_the_case() -> None:
    yes, no, open_ = (Claim("x", "y", values) for values in ((1.0, 1.1), (-1.0, -1.1), (-1.0, 1.0)))
    assert verdict([yes, yes]) == "The direction agrees with the paper in all 2 points."
    assert verdict([yes, no, open_]) == (
        "Of the paper's 3 points 1 agree, 1 go the other way, 1 stay undecided within the spread."
    )
    assert verdict([no, no]) == "Of the paper's 2 points 2 go the other way."

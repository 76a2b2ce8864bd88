"""`qvl study NAME`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_verb

STUDY_RECIPE = Path("recipes/study.toml")


def add_study(verbs: Any) -> None:
    """The verb with its flags."""
    study = add_verb(verbs, "study", _study, "the paper's ablations at tiny scale: does the direction agree?")
    study.add_argument("name", choices=("queries", "attention"))
    study.add_argument(
        "--run", dest="run_dir", type=Path, default=Path("runs/tiny"), help="whose warm-ups and world are the start"
    )
    study.add_argument("--out", type=Path, help="where runs, losses, plot and page go (runs/study-NAME)")
    study.add_argument("--seeds", type=int, default=3, help="runs of each variant (3)")
    study.add_argument("--steps", type=int, help=f"of each run ({STUDY_RECIPE}'s)")


def _study(args: argparse.Namespace) -> None:
    from qvl.explain.studies.ablations import STUDIES
    from qvl.explain.studies.run import PAGE_NAME, run_study
    from qvl.explain.studies.verdict import verdict

    out = args.out or Path(f"runs/study-{args.name}")
    claims = run_study(STUDIES[args.name], STUDY_RECIPE, args.run_dir, out, args.seeds, args.steps)
    print("\n".join([verdict(claims), *(f"- {claim.sentence()}" for claim in claims), f"page: {out / PAGE_NAME}"]))

"""Clean all of a source's pairs: plan the units, do what is not done yet, account for everything."""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from qvl.data.engine import run_jobs
from qvl.data.pairs.clean import COUNTS, QUARANTINE, REJECTED, SHARDS, UnitJob, clean_unit
from qvl.data.pairs.funnel import FUNNEL_NAME, PAGE_NAME, Funnel, funnel_page, read_funnel, write_funnel
from qvl.data.pairs.readers import find_units
from qvl.data.pairs.sources import load_source
from qvl.errors import UsageError
from qvl.files import write_text

PLAN_NAME = "plan.json"


def clean_pairs(
    inputs: Sequence[Path],
    out_dir: Path,
    source: str | Path,
    *,
    image_root: Path | None = None,
    keep_rejected: bool = False,
    clip_model: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    engine: str = "processes",
) -> Funnel:
    """Pairs of files and folders -> shards of caption samples in out_dir, with the account of every pair.

    A killed run goes on with the units that were not finished when the same call is made again; the files are the
    same for any engine and number of workers. Raises UsageError where out_dir holds another run's work and
    `overwrite` is not set, and for inputs or settings that don't fit.
    """
    settings = load_source(source)
    units = find_units(inputs)
    plan = {
        "qvl": version("qvl"),
        "settings": settings.version,
        "keep_rejected": keep_rejected,
        "clip_model": clip_model,
        "images": str(image_root) if image_root else None,
        "units": [[unit.label, unit.path.stat().st_size] for unit in units],
    }
    _begin(out_dir, json.dumps(plan, ensure_ascii=False, indent=1) + "\n", overwrite)
    jobs = [UnitJob(i, unit, settings, out_dir, image_root, keep_rejected, clip_model) for i, unit in enumerate(units)]
    pending = [job for job in jobs if not job.counts_path.exists()]
    for _ in run_jobs(clean_unit, pending, "clean", workers=workers, engine=engine, unit="unit"):
        pass
    _remove_leftovers(out_dir)
    write_funnel(out_dir, settings, [job.counts_path for job in jobs])
    funnel = read_funnel(out_dir)
    write_text(out_dir / PAGE_NAME, funnel_page([funnel]))
    return funnel


def _begin(out_dir: Path, plan: str, overwrite: bool) -> None:
    """Make sure that out_dir is new, or holds the beginning of this very run."""
    path = out_dir / PLAN_NAME
    if path.exists() and not overwrite and path.read_text(encoding="utf-8") == plan:
        _remove_leftovers(out_dir)
        return
    if out_dir.exists() and any(out_dir.iterdir()):
        if not _is_plan(path):
            raise UsageError(f"{out_dir}: not empty, and not made by this tool; choose another folder")
        if not overwrite and (out_dir / COUNTS).exists():  # else no unit was finished: nothing is lost
            raise UsageError(
                f"{out_dir}: holds the work of other inputs, settings or another version of qvl; choose another "
                "folder, or replace it with --overwrite"
            )
        _remove_run(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, plan)


def _is_plan(path: Path) -> bool:
    """Whether the file is a plan of this tool."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(plan, dict) and {"qvl", "settings", "units"} <= set(plan)


def _remove_run(out_dir: Path) -> None:
    """All that another run wrote, and nothing else that lies in the folder; the plan last."""
    _remove_leftovers(out_dir)
    for folder in (COUNTS, REJECTED, QUARANTINE):
        shutil.rmtree(out_dir / folder, ignore_errors=True)
    for path in (*out_dir.glob(SHARDS), out_dir / FUNNEL_NAME, out_dir / PAGE_NAME, out_dir / PLAN_NAME):
        path.unlink(missing_ok=True)


def _remove_leftovers(out_dir: Path) -> None:
    """What workers that were killed had half written."""
    for path in out_dir.rglob(".*.tmp*"):
        path.unlink()

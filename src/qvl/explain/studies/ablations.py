"""The two studies: what changes in each, what the paper says of it, and how that shows in the numbers.

Source: appendix E of the paper, with its Figures 7 and 8 and Table 10. The paper's ratios are kept: 112 pixels in
patches of 14 (64 patches) stand for its 224 in the study of queries and for its 448 in the study of attention.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qvl.explain.studies.plot import draw_attention, draw_queries
from qvl.explain.studies.results import Results
from qvl.explain.studies.verdict import Claim, differences


@dataclass(frozen=True)
class Study:
    """variants: name -> what it changes in the recipe. timed: whether seconds per step are asked for too."""

    title: str
    about: str
    variants: dict[str, tuple[str, ...]]
    claims: Callable[[Results], list[Claim]]
    draw: Callable[[Results, Path], None]
    timed: bool


def query_claims(results: Results) -> list[Claim]:
    """Figure 7: fewer queries start lower; 64 and 400 to 256 patches converge worse than 256."""
    few, _, chosen, many = results.losses
    starts, ends = results.starts, results.ends
    at_end = f"loss at the end, {{}} minus {chosen}"
    return [
        Claim(
            "Fewer queries start lower",
            f"loss at the start, {many} minus {few}",
            differences(starts(many), starts(few)),
        ),
        Claim("Too few converge worse", at_end.format(few), differences(ends(few), ends(chosen))),
        Claim("Too many converge worse", at_end.format(many), differences(ends(many), ends(chosen))),
    ]


def attention_claims(results: Results) -> list[Claim]:
    """Figure 8 and Table 10: windows cost loss and save time, at the higher resolution more."""
    losses, times, gains = [], [], {}
    for size in (112, 224):
        window, everywhere = f"{size} window", f"{size} global"
        losses.append(
            Claim(
                f"At {size} pixels window attention's loss is higher",
                "loss at the end, window minus global",
                differences(results.ends(window), results.ends(everywhere)),
            )
        )
        with_windows, without = results.seconds[window].cpu, results.seconds[everywhere].cpu
        times.append(
            Claim(
                f"At {size} pixels window attention's steps are shorter",
                "CPU seconds of a step, global minus window",
                differences(without, with_windows),
            )
        )
        gains[size] = [b / a for a, b in zip(with_windows, without, strict=True)]
    more = Claim(
        "At the higher resolution windows save more",
        "global's CPU seconds over window's, at 224 pixels minus at 112",
        differences(gains[224], gains[112]),
    )
    return [*losses, *times, more]


STUDIES = {
    "queries": Study(
        "How many queries?",
        "The adapter's learned queries, from a quarter to 1.6 times the 64 patches: the ratios of the paper's 64, 144, "
        "256 and 400 queries to its 256 patches.",
        {f"{number} queries": (f"num_queries={number}",) for number in (16, 36, 64, 100)},
        query_claims,
        draw_queries,
        timed=False,
    ),
    "attention": Study(
        "Window or global attention in the ViT?",
        "112 and 224 pixels stand for the paper's 448 and 896. A window is 4 x 4 patches, a quarter and a sixteenth of "
        "the picture, as the paper's 224 pixels are of 448 and of 896; every fourth block sees the whole picture.",
        {
            f"{size} {kind}": (f"image_size={size}", f"attention_window={window}")
            for size in (112, 224)
            for kind, window in (("window", 4), ("global", 0))
        },
        attention_claims,
        draw_attention,
        timed=True,
    ),
}

"""A study on one self-contained page: verdict, figure, numbers."""

import base64
import html
from statistics import fmean, median

from qvl.explain.studies.ablations import Study
from qvl.explain.studies.results import END, START, Results
from qvl.explain.studies.verdict import Claim, verdict
from qvl.pages import page

STYLE = """
body { max-width: 1300px } figure img { max-width: 100% }
.agrees { color: #1d7a43 } .contradicts { color: #b3261e } .undecided { color: #8a6d00 }
"""


def study_html(study: Study, claims: list[Claim], results: Results, plot: bytes) -> str:
    """plot: the figure as PNG."""
    points = "".join(f'<li class="{claim.outcome}">{html.escape(claim.sentence())}</li>' for claim in claims)
    picture = base64.b64encode(plot).decode()
    return page(
        f"qvl: {study.title}",
        f"<h1>{html.escape(study.title)}</h1><p>{html.escape(study.about)}</p>"
        f"<p><strong>{html.escape(verdict(claims))}</strong></p><ul>{points}</ul>"
        f'<figure><img alt="curves and losses" src="data:image/png;base64,{picture}"></figure>{_table(results)}'
        f'<p class="note">Start: the first {START:.0%} of the steps; end: the last {END:.0%}. Differences are taken '
        "seed by seed, or round by round for seconds; they decide where the 95 % interval of their mean leaves out "
        "zero. Seconds: medians of steps that the variants made in turns.</p>",
        STYLE,
    )


def _table(results: Results) -> str:
    heads = ["", "loss at the start", "loss at the end", "of each seed"]
    if results.seconds:
        heads += ["CPU seconds per step", "seconds per step"]
    rows = []
    for name in results.losses:
        ends = results.ends(name)
        cells = [f"{fmean(results.starts(name)):.3f}", f"{fmean(ends):.3f}", " / ".join(f"{end:.3f}" for end in ends)]
        if results.seconds:
            seconds = results.seconds[name]
            cells += [f"{median(seconds.cpu):.3f}", f"{median(seconds.wall):.3f}"]
        rows.append(f"<tr><td>{html.escape(name)}</td>" + "".join(f'<td class="number">{c}</td>' for c in cells))
    head = "".join(f"<th>{h}</th>" for h in heads)
    return f"<table><tr>{head}</tr>{''.join(row + '</tr>' for row in rows)}</table>"

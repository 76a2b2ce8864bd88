"""The account of a cleaning: for every rule what it saw, dropped and changed, beside what the paper kept."""

import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qvl.data.pairs.clean import RuleCounts, UnitCounts
from qvl.data.pairs.sources import SourceSettings
from qvl.errors import UsageError
from qvl.files import write_text
from qvl.pages import page

FUNNEL_NAME = "funnel.json"
PAGE_NAME = "funnel.html"
EXAMPLES = 12  # of each rule on the page
STYLE = """
.bar { width: 260px; padding: 0 } .bar span { display: block; height: .8rem; background: #3b82c4 }
.examples { display: flex; flex-wrap: wrap; gap: 1rem } figure { width: 160px }
figure img { max-width: 112px; max-height: 112px; display: block }
.change { font-size: 13px; margin: .4rem 0; overflow-wrap: anywhere } .row { color: #8a94a3; font-size: 11px }
"""


@dataclass
class Funnel:
    """The counts of all units of one source. seen == kept + damaged_pairs + what the rules dropped."""

    name: str
    about: str
    settings: str
    paper: tuple[float, float] | None
    seen: int = 0
    kept: int = 0
    damaged_pairs: int = 0
    damages: Counter[str] = field(default_factory=Counter)
    rules: dict[str, RuleCounts] = field(default_factory=dict)

    @property
    def retention(self) -> float:
        """Share of the pairs that was kept, 0..1."""
        return self.kept / self.seen if self.seen else 0.0

    def add(self, unit: UnitCounts) -> None:
        """Count one unit."""
        self.seen += unit.seen
        self.kept += unit.kept
        self.damaged_pairs += unit.damaged_pairs
        self.damages.update(unit.damages)
        for name, counts in unit.rules.items():
            mine = self.rules.setdefault(name, RuleCounts())
            mine.seen += counts.seen
            mine.dropped += counts.dropped
            mine.changed += counts.changed
            mine.examples += counts.examples[: EXAMPLES - len(mine.examples)]

    def summary(self) -> str:
        """For the terminal: one line per fact."""
        beside = f"; the paper kept {self.paper[1] / self.paper[0]:.0%}" if self.paper else ""
        lines = [f"{self.name}: {self.seen:,} pairs, {self.kept:,} kept ({self.retention:.1%}{beside})"]
        for name, counts in self.rules.items():
            did = f"changed {counts.changed:,}" if counts.changed else f"dropped {counts.dropped:,}"
            lines.append(f"  {name}: {did} of {counts.seen:,}")
        lines += [f"  damaged, {kind}: {count:,}" for kind, count in self.damages.most_common()]
        return "\n".join(lines)


def write_funnel(out_dir: Path, settings: SourceSettings, counts_paths: Sequence[Path]) -> None:
    """OUT/funnel.json from the counts of every unit, in order."""
    funnel = Funnel(settings.name, settings.about, settings.version, settings.paper)
    for path in counts_paths:
        funnel.add(UnitCounts.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    write_text(out_dir / FUNNEL_NAME, json.dumps(funnel, default=vars, ensure_ascii=False, indent=1) + "\n")


def read_funnel(out_dir: Path) -> Funnel:
    """What `qvl data clean` wrote. UsageError when it has not finished there."""
    path = out_dir / FUNNEL_NAME
    if not path.exists():
        raise UsageError(f"{out_dir}: no {FUNNEL_NAME} here; `qvl data clean` writes it when it has finished")
    values = json.loads(path.read_text(encoding="utf-8"))
    rules = {name: RuleCounts(**counts) for name, counts in values["rules"].items()}
    paper = tuple(values["paper"]) if values["paper"] else None
    return Funnel(**{**values, "paper": paper, "damages": Counter(values["damages"]), "rules": rules})


def funnel_page(funnels: Sequence[Funnel]) -> str:
    """One self-contained page: all sources beside Table 2, then each rule of each source with examples."""
    body = "".join(_section(funnel) for funnel in funnels)
    return page("qvl: cleaning", f"<h1>Where the pairs went</h1>{_overview(funnels)}{body}", STYLE)


def _overview(funnels: Sequence[Funnel]) -> str:
    rows = []
    for funnel in funnels:
        paper = f"{funnel.paper[1] / funnel.paper[0]:.0%}" if funnel.paper else ""
        cells = (f"{funnel.seen:,}", f"{funnel.kept:,}", f"{funnel.retention:.1%}", paper)
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{html.escape(funnel.name)}</td><td>{html.escape(funnel.about)}</td>{numbers}</tr>")
    heads = "".join(f'<th class="number">{head}</th>' for head in ("pairs", "kept", "share", "paper, Table 2"))
    return f"<table><tr><th>source</th><th></th>{heads}</tr>{''.join(rows)}</table>"


def _section(funnel: Funnel) -> str:
    left = funnel.seen - funnel.damaged_pairs
    rows = [_row("read", funnel.seen, funnel.damaged_pairs, 0, left, funnel.seen)]
    for name, counts in funnel.rules.items():
        left -= counts.dropped
        rows.append(_row(name, counts.seen, counts.dropped, counts.changed, left, funnel.seen))
    heads = "".join(f'<th class="number">{head}</th>' for head in ("seen", "dropped", "changed", "left"))
    parts = [
        f"<h2>{html.escape(funnel.name)}</h2>",
        f'<p class="note">Rules in their order; settings {html.escape(funnel.settings)}.</p>',
        f"<table><tr><th>rule</th>{heads}<th></th></tr>{''.join(rows)}</table>",
    ]
    if funnel.damages:
        kinds = "".join(
            f'<tr><td>{html.escape(kind)}</td><td class="number">{count:,}</td></tr>'
            for kind, count in funnel.damages.most_common()
        )
        note = "Not readable; each is named in the folder quarantine. Kinds of archives and files count no pairs."
        parts.append(f'<h3>Damaged</h3><p class="note">{note}</p><table>{kinds}</table>')
    parts += [_examples(name, counts) for name, counts in funnel.rules.items() if counts.examples]
    return "".join(parts)


def _row(name: str, seen: int, dropped: int, changed: int, left: int, total: int) -> str:
    share = 100 * left / total if total else 0
    numbers = "".join(f'<td class="number">{value:,}</td>' for value in (seen, dropped, changed, left))
    return (
        f'<tr><td>{html.escape(name)}</td>{numbers}<td class="bar"><span style="width:{share:.1f}%"></span></td></tr>'
    )


def _examples(name: str, counts: RuleCounts) -> str:
    if counts.changed:
        lines = "".join(
            f'<p class="change">{html.escape(e["text"])}<br>→ {html.escape(e["after"])} '
            f'<span class="row">{html.escape(e["row"])}</span></p>'
            for e in counts.examples
        )
        return f"<h3>{html.escape(name)} changed</h3>{lines}"
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{e["picture"]}">{e["measure"]:g}: {html.escape(e["text"])}'
        f'<br><span class="row">{html.escape(e["row"])}</span></figure>'
        for e in counts.examples
    )
    return f'<h3>{html.escape(name)} dropped</h3><div class="examples">{figures}</div>'

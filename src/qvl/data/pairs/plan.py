"""What cleaning costs: CPU hours, storage and network, and which of them bounds the time. Arithmetic alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qvl.data.pairs.rates import AFTER_RULES, BEFORE_RULES, CLIP, Rates
from qvl.data.pairs.rules import RULES, ClipScore
from qvl.data.pairs.sources import SourceSettings, bundled_sources, load_source
from qvl.errors import UsageError

PICTURE_STEPS = {*BEFORE_RULES, "clip_prepare", *AFTER_RULES}  # their time goes with the bytes of a picture
HOUR = 3600  # seconds


@dataclass(frozen=True)
class Cluster:
    """What the work runs on. UsageError for a number that is not above 0."""

    machines: int
    cores: int  # of each machine
    storage: float | None = None  # bytes/s to and from all machines together; None: as much as they can use
    devices: int | None = None  # that run the CLIP model; None: the cores do
    device_rate: float | None = None  # pairs/s of each

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise UsageError(f"{name} {value:g}: more than 0 is needed")
        if (self.devices is None) != (self.device_rate is None):
            raise UsageError("devices and their rate go together")


@dataclass(frozen=True)
class Step:
    """One step of one source."""

    source: str
    name: str
    pairs: float
    seconds: float  # of a core, for a pair

    @property
    def cpu_hours(self) -> float:
        return self.pairs * self.seconds / HOUR


@dataclass(frozen=True)
class Limit:
    """The hours that a part of the cluster needs when nothing else holds it up."""

    name: str
    formula: str
    hours: float


@dataclass(frozen=True)
class Plan:
    """Pairs by source before and after, all steps, and the limits: they work at the same time, the slowest counts."""

    pairs: dict[str, float]
    kept: dict[str, float]
    steps: tuple[Step, ...]
    limits: tuple[Limit, ...]
    picture_bytes: float
    cluster: Cluster

    @property
    def cpu_hours(self) -> float:
        return sum(step.cpu_hours for step in self.steps)

    @property
    def step_hours(self) -> dict[str, float]:
        """CPU hours by step, in the order of the work."""
        order = (*BEFORE_RULES, *CLIP, *RULES, *AFTER_RULES)
        hours = {name: sum(step.cpu_hours for step in self.steps if step.name == name) for name in order}
        return {name: value for name, value in hours.items() if value}

    @property
    def bound(self) -> Limit:
        """The limit that decides."""
        return max(self.limits, key=lambda limit: limit.hours)

    @property
    def bytes_per_second(self) -> float:
        """That storage gives and takes over the whole time."""
        moved = (sum(self.pairs.values()) + sum(self.kept.values())) * self.picture_bytes
        return moved / (self.bound.hours * HOUR)

    def report(self) -> str:
        """Tables and formulas for the terminal."""
        return "\n".join([*self._sources(), "", *self._steps(), "", *self._limits()])

    def _sources(self) -> list[str]:
        lines = [f"{'source':20}{'pairs':>15}{'kept':>15}{'CPU hours':>12}{'TB read':>10}{'TB written':>12}"]
        for name in [*self.pairs, "together"]:
            mine = [name] if name in self.pairs else list(self.pairs)
            pairs, kept = sum(self.pairs[n] for n in mine), sum(self.kept[n] for n in mine)
            hours = sum(step.cpu_hours for step in self.steps if step.source in mine)
            terabytes = self.picture_bytes / 1e12
            lines.append(
                f"{name:20}{pairs:15,.0f}{kept:15,.0f}{hours:12,.1f}{pairs * terabytes:10,.1f}{kept * terabytes:12,.1f}"
            )
        return lines

    def _steps(self) -> list[str]:
        lines = [f"{'step':20}{'pairs':>15}{'':15}{'CPU hours':>12}{'ms':>10}{'share':>12}"]
        for name, hours in self.step_hours.items():
            pairs = sum(step.pairs for step in self.steps if step.name == name)
            milliseconds = 1000 * HOUR * hours / pairs
            lines.append(
                f"{name:20}{pairs:15,.0f}{'':15}{hours:12,.1f}{milliseconds:10.4f}{hours / self.cpu_hours:12.1%}"
            )
        return lines

    def _limits(self) -> list[str]:
        lines = ["CPU hours = pairs x ms / 3,600,000; the time is the longest of these:"]
        for limit in self.limits:
            mark = "  <- the bound" if limit is self.bound else ""
            lines.append(f"  {limit.name:8} {limit.formula} = {limit.hours:.3g} hours{mark}")
        share, longest = max((hours / self.cpu_hours, name) for name, hours in self.step_hours.items())
        rate, machines = self.bytes_per_second / 1e9, self.cluster.machines
        lines.append(f"Of the CPU hours {longest} takes {share:.0%}.")
        lines.append(f"Storage moves {rate:.3g} GB/s, the network of each machine {8 * rate / machines:.3g} Gbit/s.")
        return lines


def table_2() -> list[tuple[SourceSettings, float]]:
    """The paper's five billion pairs: its ten sources, each with what it held before cleaning."""
    sources = [load_source(name) for name in bundled_sources()]
    return [(settings, settings.paper[0]) for settings in sources if settings.paper]


def make_plan(
    workload: Sequence[tuple[SourceSettings, float]],
    rates: Rates,
    cluster: Cluster,
    *,
    picture_bytes: float | None = None,
    clip: bool = False,
) -> Plan:
    """The cost of cleaning so many pairs of these sources, pictures of a mean size (that of the rates if not given).

    Kept is what the paper kept (Table 2), everything where it says nothing. It does not say which rule dropped what,
    so that each rule is taken to see all pairs. With `clip` a model scores the sources that have a rule for it.
    UsageError when the rates lack a step, a source comes twice, or pictures have no size.
    """
    size = rates.picture_bytes if picture_bytes is None else picture_bytes
    if size <= 0:
        raise UsageError(f"pictures of {size:g} bytes: more than 0 is needed")
    steps = [step for settings, count in workload for step in _steps(settings, count, rates, size, clip)]
    on_devices = [step for step in steps if step.name == "clip_model" and cluster.devices]
    on_cores = [step for step in steps if step not in on_devices]
    pairs = {settings.name: count for settings, count in workload}
    if len(pairs) < len(workload):
        raise UsageError(f"a source comes twice among {', '.join(settings.name for settings, _ in workload)}")
    kept = {settings.name: _kept(settings, count) for settings, count in workload}
    terabytes = (sum(pairs.values()) + sum(kept.values())) * size / 1e12
    cpu_hours = sum(step.cpu_hours for step in on_cores)
    cores = f"{cpu_hours:,.1f} CPU hours / ({cluster.machines} machines x {cluster.cores} cores)"
    limits = [Limit("cores", cores, cpu_hours / (cluster.machines * cluster.cores))]
    if cluster.storage:
        storage = f"{terabytes:,.1f} TB read and written / {cluster.storage / 1e9:g} GB/s"
        limits.append(Limit("storage", storage, terabytes * 1e12 / cluster.storage / HOUR))
    if on_devices and cluster.devices and cluster.device_rate:
        scored = sum(step.pairs for step in on_devices)
        devices = f"{scored:,.0f} pairs / ({cluster.devices} devices x {cluster.device_rate:g} pairs/s)"
        limits.append(Limit("devices", devices, scored / (cluster.devices * cluster.device_rate) / HOUR))
    return Plan(pairs, kept, tuple(on_cores), tuple(limits), size, cluster)


def _steps(settings: SourceSettings, count: float, rates: Rates, picture_bytes: float, clip: bool) -> Iterator[Step]:
    rules = [rule.name for rule in settings.rules]
    scoring = CLIP if clip and ClipScore.name in rules else ()
    for name in (*BEFORE_RULES, *scoring, *rules, *AFTER_RULES):
        if name not in rates.seconds:
            raise UsageError(f"no rate of {name}: measure it with --measure, and --clip-model for that of a model")
        scale = picture_bytes / rates.picture_bytes if name in PICTURE_STEPS else 1.0
        pairs = _kept(settings, count) if name in AFTER_RULES else count
        yield Step(settings.name, name, pairs, scale * rates.seconds[name])


def _kept(settings: SourceSettings, count: float) -> float:
    retention = settings.paper_retention
    return count if retention is None else count * retention

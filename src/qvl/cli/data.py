"""`qvl data TOOL`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_verb
from qvl.errors import UsageError


def add_data_tools(verbs: Any) -> None:
    """Every tool, with its flags."""
    data = verbs.add_parser("data", help="make and check training data")
    tools = data.add_subparsers(title="tools", required=True, metavar="TOOL")
    _add_ocr(tools)
    _add_pairs(tools)
    _add_annotated(tools)
    _add_checks(tools)


def _add_ocr(tools: Any) -> None:
    pdf = add_verb(tools, "pdf", _data_pdf, "PDF files -> OCR samples with quads")
    pdf.add_argument("inputs", nargs="+", help="PDF files, or folders of them")
    pdf.add_argument("--password", help="opens encrypted files")
    _ocr_flags(pdf)
    html = add_verb(tools, "html", _data_html, "web pages -> OCR samples with quads, by a real browser")
    html.add_argument("inputs", nargs="+", help="HTML files, folders of them, or addresses")
    html.add_argument("--allow-network", action="store_true", help="pages may load from the network")
    html.add_argument("--scripts", action="store_true", help="pages may run scripts")
    html.add_argument("--timeout", type=float, default=30.0, help="seconds to open a page, or read 16,000 pixels (30)")
    _ocr_flags(html)
    synth = add_verb(tools, "synth", _data_synth, "text drawn on photographs and textures -> OCR samples with quads")
    synth.add_argument("--out", type=Path, required=True)
    synth.add_argument("--count", type=int, required=True, help="pictures")
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument("--language", default="all", help="en, zh, mixed, or all in turn (all)")
    synth.add_argument("--level", default="line", help="what has a quad: word, line or block (line)")
    synth.add_argument("--fast", action="store_true", help="448 x 448 pixels instead of 720 to 1024 and more")
    synth.add_argument("--text", action="append", default=[], help="a text to draw from (words of the vocabulary)")
    synth.add_argument("--photos", action="append", default=[], help="a folder of photographs for backgrounds")
    synth.add_argument("--fonts", action="append", default=[], help="a folder of fonts (the system's)")
    synth.add_argument("--workers", type=int, help="processes (one per core)")
    synth.add_argument("--overwrite", action="store_true", help="replace shards that are in OUT")


def _add_pairs(tools: Any) -> None:
    clean = add_verb(
        tools, "clean", _data_clean, "image-text pairs -> caption samples by the paper's rules, and a funnel"
    )
    clean.add_argument("inputs", nargs="+", type=Path, help="tars, Parquet, JSON lines, caption files, or folders")
    clean.add_argument("--source", required=True, help="settings: laion_en, coyo, in_house, ... or your own file.toml")
    clean.add_argument("--out", type=Path, required=True)
    clean.add_argument("--images", type=Path, help="where image paths start (beside the file that names them)")
    clean.add_argument("--keep-rejected", action="store_true", help="also write what was dropped, with the reason")
    clean.add_argument(
        "--clip-model", help="scores the pairs that carry no CLIP score: a folder or name for transformers"
    )
    clean.add_argument("--overwrite", action="store_true", help="replace what another run left in OUT")
    clean.add_argument("--workers", type=int, help="processes (one per core)")
    clean.add_argument("--engine", default="processes", help="processes, or ray: the cluster of RAY_ADDRESS")
    plan = add_verb(tools, "plan", _data_plan, "what cleaning costs: CPU hours, storage, network, and what bounds it")
    plan.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="SOURCE=N",
        help="a source and its number of pairs; may come several times (the paper's five billion)",
    )
    plan.add_argument("--kilobytes", type=float, help="mean size of a picture (that of the pairs measured)")
    plan.add_argument("--machines", type=int, default=1)
    plan.add_argument("--cores", type=int, help="of each machine (this one's)")
    plan.add_argument("--storage", type=float, metavar="GB/S", help="what all machines together read and write")
    plan.add_argument("--clip", action="store_true", help="a model scores the sources that have a rule for it")
    plan.add_argument("--devices", type=int, help="accelerators that run the model (none: the cores do)")
    plan.add_argument("--device-rate", type=float, metavar="PAIRS/S", help="of one of them")
    plan.add_argument(
        "--measure", type=Path, nargs="+", metavar="INPUT", help="take this machine's rates on these pairs"
    )
    plan.add_argument("--source", default="laion_en", help="where their texts are: settings as for clean (laion_en)")
    plan.add_argument("--clip-model", help="measure with this model too")
    funnel = add_verb(tools, "funnel", _data_funnel, "one page about several cleaned sources")
    funnel.add_argument("folders", nargs="+", type=Path, help="what `qvl data clean` wrote, one per source")
    funnel.add_argument("--out", type=Path, default=Path("funnel.html"))


def _add_annotated(tools: Any) -> None:
    convert = add_verb(tools, "convert", _data_convert, "an annotated data set's own files -> samples")
    convert.add_argument("dataset", help="vqav2, gqa, vg, refcoco, grit, llava, qwen, messages, text, ...")
    convert.add_argument("files", nargs="+", type=Path, help="its annotation files in order; an error names them")
    convert.add_argument("--images", type=Path, default=Path(), help="folder of its images (the current one)")
    convert.add_argument("--out", type=Path, required=True)
    convert.add_argument("--exchanges", type=int, default=8, help="questions about a picture that share a sample (8)")
    _held_out_flags(convert)
    convert.add_argument("--overwrite", action="store_true", help="replace shards that are in OUT")
    dialogues = add_verb(
        tools, "dialogues", _data_dialogues, "captions and boxes -> dialogues, also by a language model"
    )
    dialogues.add_argument("splits", nargs="+", type=Path, help="folders of shards with captions and boxes")
    dialogues.add_argument("--out", type=Path, required=True)
    dialogues.add_argument("--server", help="address that speaks OpenAI's chat API, such as http://localhost:8000/v1")
    dialogues.add_argument("--model", help="the model's name there")
    dialogues.add_argument("--key-from", default="OPENAI_API_KEY", help="environment variable that holds the key")
    dialogues.add_argument("--seed", type=int, default=0)
    dialogues.add_argument("--limit", type=int, help="pictures (all)")
    dialogues.add_argument("--overwrite", action="store_true", help="replace shards that are in OUT")


def _add_checks(tools: Any) -> None:
    lint = add_verb(tools, "lint", _data_lint, "check shards against the rules of every sample")
    lint.add_argument("split", type=Path)
    _sequence_flags(lint)
    view = add_verb(tools, "view", _data_view, "a page of samples: boxes on pictures, tokens, which of them carry loss")
    view.add_argument("split", type=Path)
    view.add_argument("--out", type=Path, default=Path("samples.html"))
    view.add_argument("--limit", type=int, default=24, help="samples (24)")
    view.add_argument("--task", help="of this task alone")
    _sequence_flags(view)
    dedup = add_verb(tools, "dedup", _data_dedup, "copy shards without near duplicates and without evaluation pictures")
    dedup.add_argument("split", type=Path)
    dedup.add_argument("--out", type=Path, required=True)
    _held_out_flags(dedup)
    dedup.add_argument("--workers", type=int, help="processes (one per core)")
    trace = add_verb(
        tools, "trace", _data_trace, "where the samples of one training step come from, one JSON line each"
    )
    trace.add_argument("stage", type=Path, help="the stage's folder, such as runs/tiny/multitask")
    trace.add_argument("--step", type=int, required=True, help="as counted in its log.jsonl, from 0")


def _held_out_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        help="evaluation pictures: a folder of images or shards, or a .txt list; may come several times",
    )
    parser.add_argument(
        "--distance", type=int, default=6, help="bits of 64 in which like pictures may differ (6, at most 7)"
    )


def _ocr_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", choices=("page", "crop"), default="page", help="whole pages, or a few words each")
    parser.add_argument("--overwrite", action="store_true", help="replace shards that are in OUT")
    _sequence_flags(parser)


def _sequence_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vocabulary", default="tiny", help="tiny, published, or a checkpoint folder (tiny)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence (2048)")


def _data_pdf(args: argparse.Namespace) -> None:
    from qvl.data.ocr.sources import PDF

    _build_ocr(args, suffixes=PDF, password=args.password)


def _data_html(args: argparse.Namespace) -> None:
    from qvl.data.ocr.html import HtmlSettings
    from qvl.data.ocr.sources import HTML

    _build_ocr(args, suffixes=HTML, html=HtmlSettings(args.allow_network, args.scripts, args.timeout))


def _build_ocr(args: argparse.Namespace, **settings: Any) -> None:
    from qvl.data.ocr.build import build_ocr
    from qvl.data.ocr.cut import SequenceLimit

    sequence = SequenceLimit(*_vocabulary(args.vocabulary), args.length)
    report = build_ocr(args.inputs, args.out, mode=args.mode, sequence=sequence, overwrite=args.overwrite, **settings)
    print(report.summary())


def _data_clean(args: argparse.Namespace) -> None:
    from qvl.data.pairs.funnel import PAGE_NAME
    from qvl.data.pairs.run import clean_pairs

    funnel = clean_pairs(
        args.inputs,
        args.out,
        args.source,
        image_root=args.images,
        keep_rejected=args.keep_rejected,
        clip_model=args.clip_model,
        overwrite=args.overwrite,
        workers=args.workers,
        engine=args.engine,
    )
    print(funnel.summary())
    print(args.out / PAGE_NAME)


def _data_plan(args: argparse.Namespace) -> None:
    import os

    from qvl.data.pairs.plan import Cluster, make_plan, table_2
    from qvl.data.pairs.rates import bundled_rates, measure_rates
    from qvl.data.pairs.sources import load_source

    if args.clip_model and not args.measure:
        raise UsageError("--clip-model is measured with --measure; --clip alone takes the package's rates")
    workload = [(load_source(name), count) for name, count in map(_pairs_of_source, args.pairs)]
    rates = measure_rates(args.measure, args.source, args.clip_model) if args.measure else bundled_rates()
    cores = os.cpu_count() or 1 if args.cores is None else args.cores
    storage = None if args.storage is None else args.storage * 1e9
    cluster = Cluster(args.machines, cores, storage, args.devices, args.device_rate)
    size = None if args.kilobytes is None else args.kilobytes * 1000
    plan = make_plan(workload or table_2(), rates, cluster, picture_bytes=size, clip=args.clip)
    print(f"{plan.report()}\nRates: {rates.measured_on}, pictures of {rates.picture_bytes / 1000:.0f} kB.")


def _pairs_of_source(text: str) -> tuple[str, float]:
    """SOURCE=N."""
    name, _, number = text.rpartition("=")
    try:
        count = float(number)
    except ValueError:
        count = 0.0
    if not (name and 0 < count < float("inf")):
        raise UsageError(f"--pairs {text}: SOURCE=N is needed, such as laion_en=2e9")
    return name, count


def _data_convert(args: argparse.Namespace) -> None:
    from qvl.data.sources.convert import convert

    report = convert(
        args.dataset,
        args.files,
        args.out,
        images_dir=args.images,
        exchanges=args.exchanges,
        against=args.against,
        distance=args.distance,
        overwrite=args.overwrite,
    )
    print(report.summary())


def _data_dialogues(args: argparse.Namespace) -> None:
    import os

    from qvl.data.chat_server import Server
    from qvl.data.dialogues.build import build_dialogues

    if (args.server is None) != (args.model is None):
        raise UsageError("--server and --model go together")
    server = Server(args.server, args.model, os.environ.get(args.key_from) or "none") if args.server else None
    report = build_dialogues(
        args.splits, args.out, server=server, seed=args.seed, limit=args.limit, overwrite=args.overwrite
    )
    print(report.summary())


def _data_funnel(args: argparse.Namespace) -> None:
    from qvl.data.pairs.funnel import funnel_page, read_funnel
    from qvl.files import write_text

    write_text(args.out, funnel_page([read_funnel(folder) for folder in args.folders]))
    print(args.out)


def _data_dedup(args: argparse.Namespace) -> None:
    from qvl.data.dedup import REMOVED_NAME, dedup_split

    report = dedup_split(args.split, args.out, against=args.against, distance=args.distance, workers=args.workers)
    print(report.summary())
    print(args.out / REMOVED_NAME)


def _data_trace(args: argparse.Namespace) -> None:
    import json

    from qvl.train.trace import trace_step

    for sample in trace_step(args.stage, args.step):
        print(json.dumps({"id": sample.id, "task": sample.task, **sample.provenance}, ensure_ascii=False))


def _data_synth(args: argparse.Namespace) -> None:
    from qvl.data.synth.build import SynthConfig, synthesize
    from qvl.data.synth.fonts import FOLDERS

    config = SynthConfig(
        args.count,
        args.seed,
        args.language,
        args.level,
        args.fast,
        tuple(args.text),
        tuple(args.photos),
        tuple(args.fonts) or FOLDERS,
    )
    print(synthesize(config, args.out, workers=args.workers, overwrite=args.overwrite).summary())


def _data_lint(args: argparse.Namespace) -> None:
    from qvl.data.lint import lint_split
    from qvl.errors import DataError

    report = lint_split(args.split, *_vocabulary(args.vocabulary), args.length)
    print(report.summary())
    if not report.ok:
        raise DataError(f"{args.split}: {report.faulty} of {report.samples} samples break a rule")


def _data_view(args: argparse.Namespace) -> None:
    from qvl.explain.view import write_view

    vocabulary = _vocabulary(args.vocabulary)
    shown = write_view(args.split, args.out, *vocabulary, limit=args.limit, max_length=args.length, task=args.task)
    print(f"{args.out}: {shown} samples")


def _vocabulary(name: str) -> tuple[Any, int]:
    """A tokenizer, and the places that an image takes with it."""
    from qvl.checkpoint.layout import load_config
    from qvl.model.config import PRESETS
    from qvl.text.tokenizer import Tokenizer

    if name == "tiny":
        return Tokenizer.tiny(), PRESETS["tiny"].vision.num_queries
    if name == "published":
        return Tokenizer.published(), PRESETS["qwen-vl"].vision.num_queries
    return Tokenizer.from_dir(Path(name)), load_config(Path(name)).vision.num_queries

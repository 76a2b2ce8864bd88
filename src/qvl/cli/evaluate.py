"""`qvl eval`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
import os
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_ranks, add_verb, loaded, usable_device, usable_ranks
from qvl.errors import UsageError

ABOUT = """\
qvl eval TASK... --model DIR      ask a benchmark's questions and score the answers
qvl eval --check                  what of their data is there, what is missing, which file to get
qvl eval rescore OUT...           scores anew, from the predictions alone
qvl eval compare OUT OUT          two runs on the same questions
qvl eval report OUT...            one page, beside the paper's numbers

TASK: a benchmark, a family (refcoco, refcoco+, refcocog, seed-bench, mme, touchstone, world) or all;
`qvl eval --check` lists them."""


def add_eval(verbs: Any) -> None:
    """The verb with its flags."""
    parser = add_verb(verbs, "eval", _eval, "benchmarks: ask, score, compare, report")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = ABOUT
    parser.add_argument("what", nargs="*", metavar="TASK", help="benchmarks, or rescore, compare, report and folders")
    parser.add_argument("--check", action="store_true", help="say which data is there, and leave")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the benchmarks' files (data)")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), help="the run's folder (runs/eval)")
    model = parser.add_argument_group("who answers")
    model.add_argument("--model", help="checkpoint folder; with --server, the model's name there")
    model.add_argument("--adapter", type=Path, help="folder of adapters for the model")
    model.add_argument("--server", help="address that speaks OpenAI's chat API, such as http://localhost:8000/v1")
    model.add_argument("--key-from", default="OPENAI_API_KEY", help="environment variable that holds the key")
    how = parser.add_argument_group("how")
    how.add_argument("--chat", action="store_true", help="ask in dialogues, options by letter (a server always)")
    how.add_argument("--shots", type=int, nargs="+", default=[0], metavar="N", help="exemplars before a question (0)")
    how.add_argument("--seed", type=int, default=0, help="of the exemplars (0)")
    how.add_argument("--limit", type=int, help="questions of each group, for a try (all)")
    how.add_argument("--batch-size", type=int, default=16, help="questions at once (16)")
    how.add_argument("--workers", type=int, default=2, help="threads that read pictures, or requests at once (2)")
    how.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        help="float32: the same answers whatever the batch (the default on a CPU); bf16: faster (on a GPU)",
    )
    how.add_argument("--judge", help="TouchStone's judge: an address as of --server")
    how.add_argument("--judge-model", help="the judge's name there (gpt-4)")
    add_ranks(parser)
    parser.add_argument("--device", default="cpu")


def _eval(args: argparse.Namespace) -> None:
    tools = {"rescore": _rescore, "compare": _compare, "report": _report}
    if args.check:
        _check(args)
    elif args.what and args.what[0] in tools:
        tools[args.what[0]]([Path(folder) for folder in args.what[1:]])
    else:
        _ask(args)


def _check(args: argparse.Namespace) -> None:
    from qvl.evaluate.benchmarks import chosen
    from qvl.evaluate.check import check, check_lines

    print("\n".join(check_lines(check(chosen(args.what or ["all"]), args.data))))


def _ask(args: argparse.Namespace) -> None:
    if not args.what:
        raise UsageError("qvl eval: name benchmarks, such as vqav2 refcoco; `qvl eval --check` lists them")
    if args.model is None:
        raise UsageError("qvl eval: whose answers? give --model DIR, or --server URL --model NAME")
    for flag in ("batch_size", "workers", "limit"):
        if (value := getattr(args, flag)) is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value}: at least 1")
    if min(args.shots) < 0:
        raise UsageError(f"--shots {min(args.shots)}: at least 0")
    if usable_ranks(args.ranks) > 1:
        if args.server:
            raise UsageError("--ranks: a server shares out its work itself; give --workers for more requests at once")
        _launch(args)
    else:
        _answer(args)


def _launch(args: argparse.Namespace) -> None:
    from qvl.train.launch import launch

    flags = "model adapter data out seed limit batch_size workers precision device judge judge_model key_from".split()
    command = ["eval", *args.what, "--shots", *map(str, args.shots), *(["--chat"] if args.chat else [])]
    for flag in flags:
        if (value := getattr(args, flag)) is not None:
            command += [f"--{flag.replace('_', '-')}", str(value)]
    launch(args.ranks, command)


def _answer(args: argparse.Namespace) -> None:
    from qvl.evaluate.benchmarks import chosen
    from qvl.evaluate.run import Asked, Share, evaluate, existing_files
    from qvl.train.launch import losing_others_is_told
    from qvl.train.ranks import joined

    benchmarks, judge = chosen(args.what), _judge(args)
    for benchmark in benchmarks:  # a file that is missing is said before a model is read, which takes minutes
        existing_files(benchmark, benchmark.source, args.data)
    with losing_others_is_told(), joined(usable_device(args.device), 1) as (ranks, device):
        answerer, name = _answerer(args, device)
        share = Share(ranks.data_rank, ranks.data_size, lambda: ranks.gather(None))
        for shots in args.shots:
            asked = Asked(args.chat or bool(args.server), shots, args.seed if shots else 0, args.limit)
            for folder, found in evaluate(benchmarks, args.data, answerer, name, args.out, asked, share, judge):
                print(score_line(folder, found), flush=True)


def _answerer(args: argparse.Namespace, device: str) -> tuple[Any, str]:
    """Who answers, and what its answers are known by."""
    if args.server:
        from qvl.data.chat_server import ChatServer, Server
        from qvl.evaluate.endpoint import RemoteModel

        server = Server(args.server, args.model, os.environ.get(args.key_from) or "none", args.workers)
        return RemoteModel(ChatServer(server)), f"{args.model} at {args.server}"
    import torch

    from qvl.checkpoint.hub import find_model
    from qvl.evaluate.answering import LocalModel, fingerprint

    precision = args.precision or ("float32" if device == "cpu" else "bf16")
    folder = find_model(args.model)
    model = loaded(folder, args.adapter, device, torch.bfloat16 if precision == "bf16" else torch.float32)
    name = f"{fingerprint(folder, args.adapter)}, {precision}"
    return LocalModel(model.model, model.tokenizer, args.batch_size, precision, args.workers), name


def _judge(args: argparse.Namespace) -> Any:
    if args.judge is None:
        return None
    from functools import partial

    from qvl.data.chat_server import ChatServer, Server
    from qvl.evaluate.judge import DEFAULT_JUDGE, judge

    key = os.environ.get(args.key_from) or "none"
    server = Server(args.judge, args.judge_model or DEFAULT_JUDGE, key, args.workers)
    return partial(judge, chat=ChatServer(server))


def score_line(name: str, scores: dict[str, Any]) -> str:
    """A benchmark's score for the terminal, with how sure it is and what could not be read."""
    part = "" if scores["questions"] == scores["of"] else f" of {scores['of']:,}, a part"
    asked = f"{scores['questions']:,} questions{part}"
    if "waits" in scores:
        return f"{name:22} {asked}; waits {scores['waits']}"
    low, high = scores["interval"]
    unread = f", {scores['unparsed']:,} unreadable" if scores["unparsed"] else ""
    return f"{name:22} {scores['score']:8.2f} [{low:.2f}, {high:.2f}] {scores['metric']}; {asked}{unread}"


def _rescore(folders: list[Path]) -> None:
    from qvl.evaluate.run import rescore, scored_folders

    if not folders:
        raise UsageError("qvl eval rescore: which? give the --out of a run, or a benchmark's folder in it")
    for out in folders:
        for folder in scored_folders(out):
            print(score_line(folder.name, rescore(folder)))


def _compare(folders: list[Path]) -> None:
    from qvl.evaluate.compare import compare, comparison_lines

    if len(folders) != 2:
        raise UsageError(f"qvl eval compare: two runs, not {len(folders)}")
    print(f"a: {folders[0]}\nb: {folders[1]}")
    print("\n".join(comparison_lines(compare(*folders))))


def _report(folders: list[Path]) -> None:
    from qvl.evaluate.results import write_results

    if not folders:
        raise UsageError("qvl eval report: which? give the --out of a run, or of several")
    for path in write_results(folders):
        print(path)

"""`qvl explain`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
import sys
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_model, add_verb, model_of
from qvl.errors import UsageError

PAPER, STAGES = Path("recipes"), ("pretrain", "multitask", "sft")


def add_explain(verbs: Any) -> None:
    """The verb with its subjects."""
    explain = add_verb(verbs, "explain", lambda _: None, "see how the model learns: the loss, the recipes")
    subjects = explain.add_subparsers(title="subjects", required=True, metavar="SUBJECT")
    loss = add_verb(subjects, "loss", _loss, "what counts, what the model gave it, what it would have said")
    loss.add_argument("what", help="a split of samples, or the true answer as a text")
    loss.add_argument("--id", help="which sample of the split (the first)")
    loss.add_argument(
        "--task", help="of the split: the first sample of this task; of a text: caption (the default), vqa"
    )
    loss.add_argument("--image", type=Path, help="the picture that a text is about")
    loss.add_argument("--ask", help="the question that a text answers: a dialogue, or with --task vqa that task")
    loss.add_argument("--language", choices=["en", "zh"], help="of the table (the sample's)")
    loss.add_argument("--page", type=Path, help="write a page, too")
    add_model(loss)

    flow = add_verb(subjects, "flow", _flow, "a picture and a question through the model: shapes, cost, attention")
    flow.add_argument("image", type=Path, help="the picture")
    flow.add_argument("text", help="what is asked about it")
    flow.add_argument("--language", choices=["en", "zh"], help="of the tables (the text's)")
    flow.add_argument("--page", type=Path, help="write a page, too, with the picture lit where the model looks")
    add_model(flow)

    batch = add_verb(subjects, "batch", _batch, "a training step's rows: samples, where from, tokens with loss, waste")
    batch.add_argument("stage", type=Path, help="the stage's folder, such as runs/tiny/multitask")
    batch.add_argument("--step", type=int, help="as counted in its log.jsonl, from 0 (the last one)")
    batch.add_argument("--page", type=Path, help="write a page, too, with every sample token by token")

    recipe = add_verb(
        subjects, "recipe", _recipe, "the stages side by side: data, what trains, rates, which tokens count"
    )
    recipe.add_argument("recipes", type=Path, nargs="*", help="recipe files (the paper's three stages)")
    recipe.add_argument("--page", type=Path, help="write a page, too")


def _loss(args: argparse.Namespace) -> None:
    from qvl.explain.loss import loss_table
    from qvl.explain.loss_page import write_loss_page
    from qvl.explain.loss_text import table_text

    sample = _sample(args)
    _, load = model_of(args)
    loaded = load()
    table = loss_table(loaded.model, loaded.tokenizer, sample)
    language = args.language or sample.language
    print(table_text(table, language, sys.stdout.isatty()))
    if args.page:
        write_loss_page(table, args.page, language)
        print(args.page)


def _flow(args: argparse.Namespace) -> None:
    from qvl.data.language import language_of
    from qvl.explain.flow import answer_flow
    from qvl.explain.flow_page import write_flow_page
    from qvl.explain.flow_text import flow_text

    _, load = model_of(args)
    loaded = load()
    flow = answer_flow(loaded.model, loaded.tokenizer, args.image, args.text)
    language = args.language or language_of(args.text)
    print(flow_text(flow, language))
    if args.page:
        write_flow_page(flow, args.page, language)
        print(args.page)


def _batch(args: argparse.Namespace) -> None:
    from qvl.explain.batch import last_step, step_view
    from qvl.explain.batch_page import write_step_page
    from qvl.explain.batch_text import step_text

    view = step_view(args.stage, last_step(args.stage) if args.step is None else args.step)
    print(step_text(view))
    if args.page:
        write_step_page(view, args.page)
        print(args.page)


def _recipe(args: argparse.Namespace) -> None:
    from qvl.explain.recipes import compared, compared_text, write_recipes_page
    from qvl.train.recipe import load_recipe

    recipes = [load_recipe(path) for path in args.recipes or [PAPER / f"{stage}.toml" for stage in STAGES]]
    print(compared_text([recipe.name for recipe in recipes], compared(recipes)))
    if args.page:
        write_recipes_page(recipes, args.page)
        print(args.page)


def _sample(args: argparse.Namespace) -> Any:
    from qvl.data.language import language_of
    from qvl.data.sample import Sample, Turn, read_split
    from qvl.text.markup import Image, Text, parse_markup
    from qvl.text.prompts import caption_prefix, vqa_prefix

    if Path(args.what).is_dir():
        for sample in read_split(Path(args.what)):
            if args.id in (None, sample.id) and args.task in (None, sample.task):
                return sample
        raise UsageError(f"{args.what}: no sample with id {args.id or 'any'} and task {args.task or 'any'}")
    if args.image is None and args.ask is None:
        raise UsageError(f"{args.what}: no such split; for a text say what it answers: --image PATH, --ask QUESTION")
    language = language_of(args.what)
    task = args.task or ("dialogue" if args.ask else "caption")
    shown = (Image(0),) if args.image else ()
    if task == "caption" and args.image:
        asked: Any = caption_prefix(language)
    elif task == "vqa" and args.image and args.ask:
        asked = vqa_prefix(args.ask)
    elif task == "dialogue" and args.ask:
        asked = (*shown, Text(args.ask))
    else:
        raise UsageError(f"--task {task}: of a text caption needs --image, vqa --image and --ask, dialogue --ask")
    data = (args.image.read_bytes(),) if args.image else ()
    turns = (Turn("user", asked), Turn("assistant", parse_markup(args.what)))
    return Sample("text", task, language, data, turns)

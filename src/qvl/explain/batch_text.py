"""A training step's batches, for a terminal."""

from qvl.explain.batch import StepView
from qvl.explain.columns import aligned


def step_text(view: StepView) -> str:
    """Sums, a row for each task, for each row of the batches, and for each sample."""
    return "\n".join(
        [
            *summary(view),
            "",
            *aligned(task_rows(view)),
            "",
            *aligned(row_rows(view)),
            "",
            *aligned(sample_rows(view)),
        ]
    )


def summary(view: StepView) -> list[str]:
    """What the step is, and how much of it is filled, shown and learnt."""
    recipe, rows = view.traced.recipe, view.rows
    places = sum(row.width for row in rows)
    tokens, wasted = sum(row.tokens for row in rows), sum(row.wasted for row in rows)
    supervised = sum(row.supervised for row in rows)
    pictures = sum(piece.picture for row in rows for piece in row.pieces)
    loss = "not logged" if view.loss is None else f"loss {view.loss:.4f}"
    batches = len(view.traced.batches)
    weights = "every token with loss alike" if recipe.loss_by == "token" else f"loss_by {recipe.loss_by}"
    held = (
        f"{batches} batch{'es' if batches > 1 else ''} of {recipe.data.batch_rows} rows, at most "
        f"{recipe.data.row_length} tokens; packing {recipe.data.packing}, {weights}"
    )
    filled = (
        f"{places} places: {tokens} tokens ({pictures} of them pictures), {wasted} wasted ({wasted / places:.1%}); "
        f"{supervised} with loss ({supervised / tokens:.1%} of the tokens)"
    )
    return [f"{view.stage_dir}, step {view.step} of 0 to {recipe.steps - 1}: {loss}", held, filled]


def task_rows(view: StepView) -> list[list[str]]:
    """A head and the tasks."""
    whole = sum(row.supervised for row in view.rows)
    return [
        ["task", "samples", "tokens", "with loss", "of all with loss"],
        *(
            [task, str(n["samples"]), str(n["tokens"]), str(n["supervised"]), f"{n['supervised'] / whole:.1%}"]
            for task, n in view.by_task().items()
        ),
    ]


def row_rows(view: StepView) -> list[list[str]]:
    """A head and the rows of the batches."""
    return [
        ["batch", "row", "samples", "tokens", "with loss", "wasted"],
        *(
            [str(row.batch), str(number), str(len(row.pieces)), str(row.tokens), str(row.supervised), str(row.wasted)]
            for number, row in enumerate(view.rows, 1)
        ),
    ]


def sample_rows(view: StepView) -> list[list[str]]:
    """A head and the samples, in the order in which they are read."""
    return [
        ["row", "sample", "task", "language", "tokens", "with loss", "from"],
        *(
            [
                str(number),
                piece.sample.id,
                piece.sample.task,
                piece.sample.language,
                str(piece.length),
                str(piece.supervised),
                piece.source,
            ]
            for number, row in enumerate(view.rows, 1)
            for piece in row.pieces
        ),
    ]

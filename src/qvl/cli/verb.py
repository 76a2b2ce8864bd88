"""How a verb enters the command line."""

import argparse
from collections.abc import Callable
from typing import Any


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
    """A verb with its line for --help, and the function that runs it."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser

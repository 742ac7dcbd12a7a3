"""Run by a Python that has vLLM: reads `vllm serve` command lines with vLLM's own parser.

One JSON list of words a line comes in; one JSON object goes out, with ``settings`` (the parser's,
and the engine's made of them) or ``error``. No GPU is asked for anything, and no model is loaded.
"""

import contextlib
import dataclasses
import io
import json
import os
import sys
from importlib.metadata import version

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM logs to stdout


def without_a_gpu():
    """What `vllm bench` does where there is none: 0.33 builds no parser for no platform at all."""
    from vllm import platforms

    if not platforms.current_platform.device_type:
        from vllm.platforms.cpu import CpuPlatform

        platforms.current_platform = CpuPlatform()


def own_parser():
    without_a_gpu()
    from vllm.entrypoints.cli.serve import cmd_init

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:  # 0.8.5
        from vllm.utils import FlexibleArgumentParser
    parser = FlexibleArgumentParser(prog="vllm")
    commands = parser.add_subparsers(dest="subparser")
    for command in cmd_init():
        command.subparser_init(commands)
    return parser


def read(parser, words):
    from vllm.config import LoRAConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = parser.parse_args(words)
    except SystemExit:
        return {"error": said.getvalue()[-500:]}
    engine = AsyncEngineArgs.from_cli_args(parsed)
    settings = {
        **vars(parsed),
        **{field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)},
    }
    modules = settings["lora_modules"] or []
    settings["lora_modules"] = [{"name": one.name, "path": one.path} for one in modules]
    if engine.enable_lora:
        # Its own checks: ranks and slots that go together.
        LoRAConfig(
            max_lora_rank=engine.max_lora_rank,
            max_loras=engine.max_loras,
            max_cpu_loras=engine.max_cpu_loras,
        )
    return {"settings": settings}


def main():
    parser = own_parser()
    print(json.dumps({"version": version("vllm")}), file=ANSWERS, flush=True)
    for line in sys.stdin:
        try:
            answer = read(parser, json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()

"""The `scene4d` command: finds the named command, parses its options, turns errors into exit codes.

A command is one module with a dataclass `Config`, whose field docstrings are its help, and `main(config)`, which
returns an exit code or None for 0. `Config.__post_init__` raises ValueError for values out of range; `main` raises
InputError for what is wrong with files and their content. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import sys
from importlib import import_module
from typing import Any

from scene4d import __version__
from scene4d.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_OUT_OF_MEMORY, InputError

COMMANDS = {
    "cues": ("scene4d.commands.cues", "say what the pictures have seen of each pixel: roles, colours, confidence"),
    "doctor": ("scene4d.commands.doctor", "say what works on this machine, what does not, and how to fix it"),
    "edit": ("scene4d.commands.edit", "edit a scene: move, remove, copy, insert, retime, recolour; undo, bake"),
    "evaluate": ("scene4d.commands.evaluate", "say how near a scene is to its capture, and to the truth if known"),
    "fit": ("scene4d.commands.fit", "fit a scene to a capture: videos with cameras become a project"),
    "info": ("scene4d.commands.info", "say what a project holds, and whether its files are whole"),
    "inspect": ("scene4d.commands.inspect", "look at a capture before a fit does; estimate cameras where it has none"),
    "render": ("scene4d.commands.render", "render a scene along a camera path: video, pictures, depth, flow, ids"),
    "sample": ("scene4d.commands.sample", "write a sample capture: a synthetic world with its truth, or a real one"),
    "segment": ("scene4d.commands.segment", "make masks of some frames the instances of a scene"),
    "video": ("editors.commands.video", "finish the video of an edited scene: keep what was seen, fill the rest"),
    "vote": ("scene4d.commands.vote", "compare edited videos by eye: write the page, read the answers"),
}


def main(args: list[str] | None = None) -> int:
    """Run one command. `args` are those after the program's name (default: those of this process)."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if args[0] == "--version":
        sys.stdout.write(f"scene4d {__version__}\n")
        return 0
    name = args[0]
    try:
        if name not in COMMANDS:
            raise InputError(unknown_command(name))
        module = import_module(COMMANDS[name][0])
        return module.main(parse_config(module.Config, name, args[1:])) or 0
    except InputError as error:
        return report(name, " ".join(str(error).split()), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        return report(name, "cancelled", EXIT_CANCELLED)
    except (MemoryError, RuntimeError) as error:
        words = " ".join(str(error).split())
        if is_out_of_memory(error):
            return report(name, f"out of memory: {words or 'no details'}", EXIT_OUT_OF_MEMORY)
        if (exit_code := getattr(error, "exit_code", None)) is None:
            raise
        return report(name, words, exit_code)  # scene4d.fitting.train.Diverged: not imported here, it imports torch


def help_text() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: scene4d COMMAND [options]",
            "",
            "Edit captured dynamic scenes made of moving Gaussians.",
            "",
            "commands:",
            *rows,
            "",
            "scene4d COMMAND --help   the options of a command",
            "scene4d --version        the version",
            "",
        ]
    )


def unknown_command(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown command {name!r}; {hint}`scene4d --help` lists them"


def parse_config(config_type: type, name: str, args: list[str]) -> Any:
    """The command's configuration from its options; exits after `--help`.

    Raises:
        InputError: an option is unknown or its value is wrong.
    """
    import tyro  # not at the top: `scene4d --help` does without

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, prog=f"scene4d {name}", args=args)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(unboxed(complaint.getvalue())) from None


def unboxed(text: str) -> str:
    """One line from the box that tyro draws around an error: its parts are separated by rules."""
    parts = [[]]
    for row in text.splitlines():
        content = row.strip("│ ")
        if content.startswith("──"):
            parts.append([])
        elif row.startswith("│"):
            parts[-1].append(content)
    return "; ".join(" ".join(part) for part in parts if part) or text


def is_out_of_memory(error: Exception) -> bool:
    """MemoryError, CUDA's out-of-memory error, or the plain RuntimeError of torch's CPU allocator."""
    torch = sys.modules.get("torch")  # not imported: not torch's error
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def report(name: str, message: str, exit_code: int) -> int:
    prefix = f"scene4d {name}" if name in COMMANDS else "scene4d"
    sys.stderr.write(f"{prefix}: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())

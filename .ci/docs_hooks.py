"""Hooks of mkdocs: the help of every command, put into the page `commands.md` when the site is built."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MARKER = "<!-- help of every command -->"


def command_help(*words: str) -> str:
    """What `rdunet WORDS --help` prints, without frames and colour."""
    from rdunet_jax.cli.main import main

    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["rdunet", *words, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
    lines = [re.sub(r"[╭╮╰╯│─]+", " ", line).rstrip() for line in plain.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces the marker by a section for each command."""
    if MARKER not in markdown:
        return markdown
    from rdunet_jax.cli.main import COMMANDS

    sections = [f"## rdunet {name}\n\n```text\n{command_help(name)}\n```" for name in COMMANDS]
    return markdown.replace(MARKER, "\n\n".join(sections))

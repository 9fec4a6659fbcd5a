"""Fails on functions over 60 lines, the length at which loved code turns into endured code.

    python tools/function_length.py [path ...]

Counts from `def` to the last line, docstring included, decorators not. Generated stubs and hidden folders are left out.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_LINES = 60
LEFT_OUT = {"build", "dist", "data", "out", "node_modules"}


class LongFunction(NamedTuple):
    """One function that is too long."""

    path: Path
    line: int
    name: str
    length: int  # lines


def python_files(root: Path) -> Iterator[Path]:
    """Every hand-written Python file under `root`, which may be a file itself."""
    if root.is_file():
        yield root
        return
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if "_pb2" not in path.name and not any(name.startswith(".") or name in LEFT_OUT for name in folders):
            yield path


def long_functions(path: Path, limit: int = MAX_LINES) -> list[LongFunction]:
    """The functions of one file that have more than `limit` lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > limit:
                found.append(LongFunction(path, node.lineno, node.name, length))
    return found


def main(arguments: list[str]) -> int:
    """Prints what is too long or cannot be read; 1 when there is anything."""
    complaints = []
    for path in (path for argument in arguments or ["."] for path in python_files(Path(argument))):
        try:
            found = long_functions(path)
        except SyntaxError as error:
            complaints.append(f"{path}:{error.lineno}: cannot be parsed: {error.msg}")
        else:
            complaints += [f"{path}:{f.line}: {f.name} has {f.length} lines, at most {MAX_LINES}" for f in found]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""tools/function_length.py: what it counts, what it leaves out, and that it can fail."""

from pathlib import Path

import pytest

from tools import function_length


def function_of(lines: int) -> str:
    """A function with exactly that many lines."""
    return "def f() -> None:\n" + "    pass\n" * (lines - 1)


def test_a_function_over_the_limit_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """61 lines fail, and the message says where and how long."""
    (tmp_path / "long.py").write_text(function_of(61))
    assert function_length.main([str(tmp_path)]) == 1
    assert "long.py:1: f has 61 lines" in capsys.readouterr().out


def test_a_function_at_the_limit_passes(tmp_path: Path) -> None:
    """60 lines are allowed."""
    (tmp_path / "fair.py").write_text(function_of(60))
    assert function_length.main([str(tmp_path)]) == 0


def test_methods_and_nested_functions_are_counted(tmp_path: Path) -> None:
    """Being inside a class or another function hides nothing."""
    body = "\n".join("    " + line for line in function_of(70).splitlines())
    (tmp_path / "nested.py").write_text(f"class C:\n{body}\n")
    assert function_length.main([str(tmp_path)]) == 1


def test_generated_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    """Stubs, environments and corpora are not ours to shorten."""
    for name in ("session_pb2.py", ".venv/long.py", "data/long.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(function_of(61))
    assert function_length.main([str(tmp_path)]) == 0


def test_a_file_that_does_not_parse_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read cannot pass."""
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert function_length.main([str(tmp_path)]) == 1
    assert "broken.py:1" in capsys.readouterr().out

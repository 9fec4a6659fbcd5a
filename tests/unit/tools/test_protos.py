"""tools/protos.py: the contract is clean, its stubs are fresh, and both checks can fail."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the development extra is not installed")

from tools import protos


@pytest.fixture
def copied_protos(tmp_path: Path) -> Path:
    """The contract in a place where it may be spoilt."""
    return Path(shutil.copytree(protos.PROTOS, tmp_path / "protos"))


def test_the_contract_passes_lint() -> None:
    """buf's STANDARD and COMMENTS rules hold."""
    result = protos.lint()
    assert result.returncode == 0, result.stdout + result.stderr


def test_lint_fails_on_a_field_without_a_sentence(copied_protos: Path) -> None:
    """A field that says nothing about itself is refused, by name."""
    types = copied_protos / "cuelight" / "v1" / "types.proto"
    types.write_text(types.read_text() + "\n// Spoilt has a silent field.\nmessage Spoilt {\n  uint32 silent = 1;\n}\n")
    result = protos.lint(copied_protos)
    assert result.returncode != 0
    assert "silent" in result.stdout + result.stderr


def test_committed_stubs_are_what_the_contract_gives() -> None:
    """Nobody edited a stub, nobody forgot `make protos`."""
    assert protos.stale_stubs() == []


def test_a_changed_contract_makes_its_stubs_stale(copied_protos: Path) -> None:
    """The comparison sees a new field, and only in the file it is in."""
    types = copied_protos / "cuelight" / "v1" / "types.proto"
    types.write_text(types.read_text() + "\n// Extra is new.\nmessage Extra {}\n")
    assert protos.stale_stubs(protos=copied_protos) == ["types_pb2.py", "types_pb2.pyi"]


def test_a_stub_without_source_is_stale(tmp_path: Path) -> None:
    """A stub whose .proto is gone does not linger."""
    target = Path(shutil.copytree(protos.STUBS, tmp_path / "v1"))
    (target / "gone_pb2.py").write_text("")
    assert protos.stale_stubs(target) == ["gone_pb2.py"]

"""API keys: whose they are, and what becomes of them when their file changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.auth.keys import FILE_BYTES, KEYS_MOST, ApiKeys, key_digest, key_line, new_key
from services.errors import SecretsInvalid


def test_a_key_is_its_tenants(tmp_path: Path) -> None:
    """The file knows keys by their digest; a key that differs by one letter is nobody's."""
    key, other = new_key(), new_key()
    path = tmp_path / "keys"
    path.write_text(f"# who\n\n{key_line('acme', key, 'the web page')}\n{key_line('globex', other)}\n")
    keys = ApiKeys(path)
    found = keys.find(key)
    assert found is not None and (found.tenant, found.name) == ("acme", "the web page")
    assert keys.find(other).tenant == "globex"  # type: ignore[union-attr]
    for wrong in (key[:-1], key + "x", key_digest(key), "", "\udcff"):
        assert keys.find(wrong) is None
    assert key not in path.read_text()


def test_a_key_is_taken_back_without_a_restart(tmp_path: Path) -> None:
    """A line removed shuts, a line added opens, and a file that cannot be used leaves things as they are."""
    first, second = new_key(), new_key()
    path = tmp_path / "keys"
    path.write_text(key_line("acme", first))
    keys = ApiKeys(path, look_s=0.0)
    assert keys.find(first) is not None
    path.write_text(key_line("acme", second, "new"))
    assert keys.find(first) is None and keys.find(second) is not None
    path.write_text("acme not-a-digest")
    assert keys.find(second) is not None
    path.unlink()
    assert keys.find(second) is not None
    path.write_text("# nobody any more")
    assert keys.find(second) is None


def test_a_file_of_keys_may_be_so_long(tmp_path: Path) -> None:
    """4,096 keys and 1 MiB are read, one more of either is refused with what is allowed."""
    path = tmp_path / "keys"
    lines = [f"acme {number:064x}" for number in range(KEYS_MOST)]
    whole = "\n".join(lines).ljust(FILE_BYTES - 2) + "\n#"
    for text, is_taken in (
        (whole, True),
        (f"{whole}x", False),
        ("\n".join(lines), True),
        ("\n".join([*lines, f"acme {KEYS_MOST:064x}"]), False),
    ):
        path.write_text(text)
        if is_taken:
            ApiKeys(path)
        else:
            with pytest.raises(SecretsInvalid, match="more than 4096 keys or 1048576 bytes"):
                ApiKeys(path)


@pytest.mark.parametrize("tenant", ["", "Acme", "a/b", "a" * 64, "a b"])
def test_a_tenant_has_a_plain_name(tenant: str) -> None:
    """What could leave a resource name is no tenant."""
    with pytest.raises(ValueError, match="a tenant is"):
        key_line(tenant, new_key())


def test_the_command_makes_a_key_and_its_line(tmp_path: Path) -> None:
    """`python -m gateway.auth` writes the line to one stream and the key to the other; a bad tenant is status 2."""
    made = subprocess.run(
        [sys.executable, "-m", "gateway.auth", "acme", "page"], capture_output=True, text=True, check=True, timeout=60
    )
    path = tmp_path / "keys"
    path.write_text(made.stdout)
    found = ApiKeys(path).find(made.stderr.strip())
    assert found is not None and (found.tenant, found.name) == ("acme", "page")
    refused = subprocess.run(
        [sys.executable, "-m", "gateway.auth", "ACME"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (refused.returncode, refused.stdout) == (2, "") and "a tenant is" in refused.stderr

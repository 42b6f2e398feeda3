"""Wheel and sdist: what is in them, and that both install and run without the tree around them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[2]
_BUILD = (
    "import sys; from setuptools import build_meta as b; to = sys.argv[1]; "
    "b.build_wheel(to); b.build_sdist(to)"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a wheel and an sdist, built in a copy of what is committed or will be."""
    folder = tmp_path_factory.mktemp("packages")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "federation", tree / "federation", ignore=ignored)
    shutil.copytree(ROOT / "tests/support", tree / "tests/support", ignore=ignored)
    run([sys.executable, "-c", _BUILD, str(folder)], cwd=tree)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done  # type: ignore[no-any-return]


def test_a_registry_takes_the_metadata(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith("/METADATA"))
        metadata = Metadata.from_email(wheel.read(name), validate=True)
    assert metadata.name == "federation-cache"
    assert metadata.summary
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    assert str(metadata.requires_python) == ">=3.11"


def test_the_wheel_has_all_modules_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "federation").rglob("*.py")}
    assert modules <= names
    assert "federation/py.typed" in names
    others = {name.split("/")[0] for name in names - modules}
    assert {name.partition("-")[0] for name in others} == {"federation", "federation_cache"}


def test_the_sdist_builds_by_itself(built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    assert {"LICENSE", "README.md", "pyproject.toml"} <= {each.name for each in tree.iterdir()}
    run([sys.executable, "-c", _BUILD, str(tmp_path)], cwd=tree)


def test_an_installed_wheel_runs_and_has_its_commands(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    run([*pip, "--target", str(tmp_path / "site"), str(built[0])])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import federation; print(federation.__file__)"
    found = run([sys.executable, "-P", "-c", code], env=environment, cwd=tmp_path)
    assert found.stdout.startswith(str(tmp_path))
    for command in ("federation", "bst-artifact-server"):
        path = tmp_path / "site/bin" / command
        assert "Usage" in run([sys.executable, str(path), "--help"], env=environment).stdout


def test_another_project_of_the_name_in_the_same_environment_is_reported(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path)
    (tmp_path / "federation/__init__.py").write_text('__version__ = "0.25"\n')  # as it does
    (tmp_path / "federation/entities").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "federation", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "install them into two" in done.stderr

"""What is installed: its metadata, its size, its types; and what pyproject promises."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import tomllib
import zipfile
from pathlib import Path

import pytest

import hotloop as hl

ROOT = Path(__file__).parent.parent
PACKAGE = Path(hl.__file__).parent


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_hard_dependencies_are_numpy_and_safetensors(project):
    names = {line.split(">")[0].split("=")[0] for line in project["project"]["dependencies"]}
    assert names == {"numpy", "safetensors"}


def test_the_extras_are_there(project):
    extras = set(project["project"]["optional-dependencies"])
    assert {"demo", "test", "bench", "dev", "all"} <= extras


def test_the_suite_needs_no_pytorch(project):
    everything = str(project["project"]["optional-dependencies"]["test"])
    assert "torch" not in everything


def test_every_cmake_option_is_passed_at_every_configure(project):
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    defined = project["tool"]["scikit-build"]["cmake"]["define"]
    for name, value in defined.items():
        assert name in text
        assert value["env"] == name
        assert "default" in value
    declared = {
        line.split("(")[1].split()[0]
        for line in text.splitlines()
        if line.startswith("option(HOTLOOP_")
        or (line.startswith("set(HOTLOOP_") and "CACHE" in line)
    }
    assert declared - {"HOTLOOP_IN_PLACE"} == set(defined)


def test_types_travel_with_the_package():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


def test_the_version_is_one(project):
    assert hl.__version__ == project["project"]["version"]


def test_the_installed_version_is_the_modules():
    try:
        installed = importlib.metadata.version("hotloop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("hotloop runs from the source tree")
    assert installed == hl.__version__


def test_the_package_is_under_ten_megabytes():
    if PACKAGE.is_relative_to(ROOT):
        files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.so")]
    else:
        files = [path for path in PACKAGE.rglob("*") if path.is_file()]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for path in files:
            wheel.write(path, path.relative_to(PACKAGE))
    assert len(archive.getvalue()) < 10_000_000


def test_the_extension_needs_no_library_that_a_machine_may_lack():
    """Nothing beside the C and C++ runtime, so no OpenMP and no BLAS."""
    spec = importlib.util.find_spec("hotloop._core")
    assert spec is not None
    assert spec.origin is not None
    content = Path(spec.origin).read_bytes()
    for name in (
        b"libgomp",
        b"libomp",
        b"libiomp",
        b"libopenblas",
        b"libmkl",
        b"libtbb",
        b"libcuda",
    ):
        assert name not in content

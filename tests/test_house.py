"""The architecture, asserted: the tree, who may include whom, the public surface, the habits.

Everything is found by globs over the source tree this file lies in; no list of ops is kept here.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hotloop as hl
from hotloop import _core

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PYTHON = ROOT / "python" / "hotloop"

# The names that a family may have (one name in every column); not all of them exist yet.
FAMILIES = {
    *("gemm", "conv", "pool", "activation", "elementwise", "reduce", "copy", "index", "softmax"),
    *("norm", "loss", "dropout", "random", "embedding", "attention", "rnn", "optimizer"),
    *("sparse", "quant", "resample"),
}
# Where a family has a file of its name.
COLUMNS = {
    "contract": "csrc/kernels/{}.h",
    "loops": "csrc/kernels/cpu/{}.cpp",
    "binding": "csrc/bindings/{}.cpp",
    "functions": "python/hotloop/kernels/{}.py",
    "tests": "tests/test_{}.py",
    "benchmark": "bench/bench_{}.py",
    "cases": "python/hotloop/benchmarks/cases/{}.py",
}
BUILT = sorted(path.stem for path in (CSRC / "kernels").glob("*.h") if path.stem in FAMILIES)


def files(*patterns: str, under: Path = ROOT) -> list[Path]:
    found = {path for pattern in patterns for path in under.glob(pattern) if path.is_file()}
    return sorted(path for path in found if "__pycache__" not in path.parts)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CPP = files("csrc/**/*.h", "csrc/**/*.cpp", "csrc/**/*.cu", "csrc/**/*.cuh")
LIBRARY = files("python/hotloop/**/*.py")
SOURCES = [*CPP, *LIBRARY, *files("tests/*.py", "bench/*.py", "examples/*.py")]
# Compiled per level: the loops and everything they include.
LEVELLED = [
    path
    for path in CPP
    if path.relative_to(CSRC).as_posix().startswith(("kernels/cpu/", "engines/", "simd/", "math/"))
]


def without_comments(path: Path) -> str:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def includes(path: Path) -> Iterator[str]:
    for match in re.finditer(r'^\s*#\s*include\s*([<"][^>"]+[>"])', without_comments(path), re.M):
        yield match.group(1)


# ---- the tree -------------------------------------------------------------------------------


def test_the_glob_finds_the_house():
    assert len(CPP) > 20
    assert len(LIBRARY) > 20
    assert BUILT


@pytest.mark.parametrize("family", BUILT)
def test_a_family_stands_in_every_column(family):
    expected = [path.format(family) for path in COLUMNS.values()]
    assert [path for path in expected if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("column", ["loops", "functions"])
def test_no_column_holds_a_family_that_the_others_lack(column):
    pattern = COLUMNS[column].format("*")
    stems = {path.stem for path in files(pattern) if not path.stem.startswith("_")}
    assert {stem for stem in stems if stem in FAMILIES} <= set(BUILT)


def test_the_rooms_are_those_of_the_plan():
    rooms = {path.name for path in CSRC.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert rooms - {"__pycache__"} <= {
        "core",
        "simd",
        "math",
        "engines",
        "kernels",
        "emulation",
        "bindings",
    }


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 800


# ---- who may include whom ---------------------------------------------------------------------

_ALLOWED = re.compile(
    r"<(cstdint|cstddef|type_traits|\w+intrin\.h|arm_neon\.h)>"
    r'|"(engines|simd|math)/[\w/]+\.h"|"kernels/\w+\.h"|"core/dispatch\.h"'
)


@pytest.mark.parametrize("path", LEVELLED, ids=name)
def test_level_compiled_files_include_little(path):
    """An inline function compiled with AVX-512 flags can be the copy that the linker keeps."""
    bad = [include for include in includes(path) if not _ALLOWED.fullmatch(include)]
    assert not bad


@pytest.mark.parametrize("path", LEVELLED, ids=name)
def test_level_compiled_files_use_nothing_of_the_standard_library(path):
    used = set(re.findall(r"\bstd::(\w+)", without_comments(path)))
    fine = "size_t ptrdiff_t is_same is_same_v conditional conditional_t true_type false_type"
    fixed = {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    assert used <= {*fine.split(), *fixed, "enable_if_t", "uintptr_t", "integral_constant"}


def test_contracts_are_plain():
    """kernels/*.h is seen by level-compiled code too."""
    for path in files("csrc/kernels/*.h"):
        bad = [include for include in includes(path) if not _ALLOWED.fullmatch(include)]
        assert not bad, name(path)


def test_only_the_bindings_know_pybind11():
    for path in CPP:
        if any("pybind11" in include for include in includes(path)):
            inside = path.relative_to(CSRC).parts[0]
            assert inside in ("bindings", "module.cpp"), name(path)


def test_the_ground_floor_includes_no_upper_storey():
    for path in files("csrc/core/*"):
        for include in includes(path):
            assert not re.match(r'"(kernels|engines|simd|bindings)/', include), name(path)


# ---- habits -------------------------------------------------------------------------------------


def test_nobody_names_openmp_or_blas():
    for path in CPP:
        assert not re.search(r"#\s*pragma\s+omp|<omp\.h>|cblas", without_comments(path)), name(path)


def test_no_code_is_switched_off():
    for path in CPP:
        assert not re.search(r"^\s*#\s*if\s+0\b", path.read_text(encoding="utf-8"), re.M), name(
            path
        )


def test_the_build_changes_no_floating_point_and_names_no_machine():
    text = re.sub(r"#[^\n]*", "", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    for flag in ("-march=native", "-ffast-math", "-Ofast", "-flto", "-fopenmp"):
        assert flag not in text


def test_the_compiled_code_never_prints_nor_ends_the_process():
    for path in CPP:
        if path.is_relative_to(CSRC / "emulation"):
            continue
        found = re.findall(
            r"\bstd::(?:cout|cerr|exit|abort|terminate)\b|\b(?:printf|puts|abort|exit)\s*\(",
            without_comments(path),
        )
        assert not found, name(path)


# The command line and what it shows: everything else hands text back.
_SPEAKS = ("__main__.py", "benchmarks/", "demo", "config.py", "_config.py")


def test_the_library_never_prints():
    for path in LIBRARY:
        if path.relative_to(PYTHON).as_posix().startswith(_SPEAKS):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            node.lineno
            for function in ast.walk(tree)
            if not (isinstance(function, ast.FunctionDef) and function.name == "show_config")
            for node in ast.iter_child_nodes(function)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "print"
        ]
        assert not calls, f"{name(path)}, lines {calls}"


def test_the_library_never_pickles_nor_evaluates():
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "marshal", "shelve"} & set(modules), name(path)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), name(path)


def test_only_pyproject_names_dependencies():
    rivals = files(
        "requirements*.txt", "setup.py", "setup.cfg", "environment*.y*ml", "Pipfile*", "*.lock"
    )
    assert not rivals


def test_functions_stay_under_eighty_lines():
    long = []
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                begin = first.end_lineno if told else node.lineno
                if node.end_lineno - begin > 80:
                    long.append(f"{name(path)}: {node.name}")
    assert not long


def test_nothing_depends_on_where_it_was_written():
    """No absolute path of a developer's machine, no address of a package registry."""
    texts = [*SOURCES, *files("*.md", "*.toml", "CMakeLists.txt", ".ci/*", "bench/*.md")]
    here = Path(__file__).resolve()
    for path in texts:
        if path.resolve() == here:
            continue
        found = re.findall(
            r"/work/|/home/\w+/|/root/|\.\./shared|/tmp/(?:hl|wt)\b|pypi\.org|pythonhosted",
            path.read_text(encoding="utf-8"),
        )
        assert not found, name(path)


# ---- the public surface -------------------------------------------------------------------------

FAMILY_MODULES = [
    path for path in files("python/hotloop/kernels/*.py") if not path.stem.startswith("_")
]
PUBLIC = sorted(name for name in hl.kernels.__all__ if callable(getattr(hl.kernels, name)))


def exports(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:  # built from a table
                return []
    return []


def test_the_package_exports_what_its_families_export():
    assert len(set(hl.kernels.__all__)) == len(hl.kernels.__all__)
    for path in FAMILY_MODULES:
        assert set(exports(path)) <= set(hl.kernels.__all__), name(path)


def test_every_binding_is_called_from_python():
    text = "\n".join(path.read_text(encoding="utf-8") for path in LIBRARY)
    dead = [
        binding
        for family in BUILT
        for path in files(f"csrc/bindings/{family}.cpp")
        for binding in re.findall(r'\.def\(\s*"(\w+)"', without_comments(path))
        if not re.search(rf"\b{binding}\b", text)
    ]
    assert not dead


def test_python_calls_only_bindings_that_exist():
    for path in LIBRARY:
        for binding in re.findall(r"\b_core\.([A-Za-z]\w*)", path.read_text(encoding="utf-8")):
            assert hasattr(_core, binding), f"{name(path)}: _core.{binding}"


@pytest.mark.parametrize("public", PUBLIC)
def test_public_functions_are_documented(public):
    """Arguments, result and errors, or the name of the function where they stand."""
    function = getattr(hl.kernels, public)
    text = function.__doc__ or ""
    assert len(text) > 40, "no docstring"
    if isinstance(function, type) or not inspect.signature(function).parameters:
        return
    elsewhere = any(f"`{other}`" in text for other in PUBLIC if other != public)
    assert elsewhere or (("Args:" in text or "Returns:" in text) and "Error" in text)


def test_the_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install ".[demo]" && python -m hotloop demo' in text
    assert 'pip install ".[test]" && python -m pytest' in text

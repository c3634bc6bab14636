"""Imports only point down, and nothing above the torch line imports torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import einheads

PACKAGE = Path(einheads.__file__).parent

# From the bottom up: a file imports only from its left. A folder counts as one file.
TORCH_FREE = re.findall(
    r"\w+",
    """
    errors pattern given sizes layout plan steps units loops devices zen calibrated rates walks
    products costs price candidates forms search turns ways beam build writing lower reading source
    strided gradients choices unplanned planning placing explain
    """,
)
WITH_TORCH = re.findall(
    r"\w+",
    """
    guards compiled operands stopwatch program training call functional initializers layers roles
    convert folding shard tuned tuning bench demo __main__
    """,
)
ORDER = [*TORCH_FREE, *WITH_TORCH]


def place(path: Path) -> str:
    """The name under which a file stands in the order."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Every module that a syntax tree imports, inside of functions too.

    Modules of the package come as their place in the order; others as their first name.
    """
    package = f"einheads.{name}" if (PACKAGE / name).is_dir() else "einheads"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # read by type checkers only
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = resolve_name("." * node.level + (node.module or ""), package)
            modules = [f"{stem}.{alias.name}" for alias in node.names]
        for module in modules:
            first, *rest = module.split(".")
            yield rest[0] if first == "einheads" and rest else first
        yield from imports(name, node)


def broken(name: str, text: str) -> Iterator[str]:
    """What is wrong with the imports of a file."""
    for module in imports(name, ast.parse(text)):
        if module == "torch" and name in TORCH_FREE:
            yield f"{name} imports torch"
        if module not in ORDER or module == name:
            continue
        if ORDER.index(module) > ORDER.index(name):
            yield f"{name} imports {module}, which lies above it"


# The face of the package imports from everywhere, late; the last tests below are about it.
FILES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """Every file stands in the order and imports only what lies below it."""
    assert place(path) in ORDER
    assert list(broken(place(path), path.read_text())) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    """No file has more than 400 lines."""
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("pattern", "from .sizes import bind", "pattern imports sizes, which lies above it"),
        ("pattern", "from . import sizes", "pattern imports sizes, which lies above it"),
        ("pattern", "import einheads.sizes", "pattern imports sizes, which lies above it"),
        (
            "plan",
            "def f():\n    from .lower import lower",
            "plan imports lower, which lies above it",
        ),
        ("explain", "import torch.nn as nn", "explain imports torch"),
        ("source", "def f():\n    from torch import Tensor", "source imports torch"),
        ("layers", "from ..shard import shard", "layers imports shard, which lies above it"),
        ("layers", "from einheads.bench import run", "layers imports bench, which lies above it"),
    ],
)
def test_a_wrong_import_is_found(name: str, text: str, complaint: str) -> None:
    """The test above can fail."""
    assert list(broken(name, text)) == [complaint]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sizes", "from .pattern import parse\nfrom . import errors\nimport math"),
        ("explain", "if TYPE_CHECKING:\n    import torch"),
        ("layers", "from .base import Einsum\nfrom ..program import apply\nimport torch"),
        ("demo", "import einheads as eh\nfrom .contest import compare"),
    ],
)
def test_a_right_import_is_let_through(name: str, text: str) -> None:
    """It does not fail for everything either."""
    assert list(broken(name, text)) == []


def loads_torch(code: str) -> bool:
    """Whether a new interpreter has imported torch after running this code."""
    command = f"import sys\n{code}\nsys.exit(3 if 'torch' in sys.modules else 0)"
    status = subprocess.run([sys.executable, "-c", command], check=False).returncode
    assert status in {0, 3}
    return status == 3


@pytest.mark.parametrize(
    "code",
    [
        "import einheads",
        "import einheads; str(einheads.explain('b i, i r, r o -> b o'))",
        "import einheads; einheads.explain('b i, o i -> b o')._repr_html_()",
        "import einheads; einheads.source('b h i, h o i -> b h o')",
        "import einheads.__main__ as m; m.main(['source', 'a b -> b a'])",
        "import einheads; dir(einheads); einheads.__all__",
    ],
)
def test_half_of_the_package_works_without_torch(code: str) -> None:
    """Explanations and source neither import torch nor anything that does."""
    assert not loads_torch(code)


@pytest.mark.parametrize("code", ["import torch", "import einheads; einheads.einsum"])
def test_torch_would_be_noticed(code: str) -> None:
    """The test above can fail."""
    assert loads_torch(code)


def test_functions_stay_where_modules_have_the_same_names() -> None:
    """`einheads.explain` and `einheads.source` are functions, whatever else is imported."""
    code = """
import einheads.explain, einheads.source, einheads.program, einheads.layers
import importlib
importlib.import_module("einheads.source")
from einheads.source import write
from einheads.explain import tell
import einheads
assert einheads.explain.__module__ == "einheads.explain", einheads.explain
assert einheads.source.__module__ == "einheads.explain.standalone", einheads.source
assert callable(einheads.explain) and callable(einheads.source)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there() -> None:
    """Every name of `__all__` stands in it once, can be asked for, and shows up in `dir`."""
    assert len(set(einheads.__all__)) == len(einheads.__all__)
    for name in einheads.__all__:
        assert getattr(einheads, name) is not None
        assert name in dir(einheads)


def test_unknown_names_are_refused() -> None:
    """A name that is not there raises as with any module."""
    with pytest.raises(AttributeError, match=r"^module 'einheads' has no attribute 'einsums'$"):
        einheads.einsums  # noqa: B018

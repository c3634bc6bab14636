"""Generated text: how it reads, that it runs when pasted, and how little it does."""

import ast
import inspect
import re
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor

import einheads as eh
from cases import BY_NAME, CASES, Case
from einheads.explain.standalone import source_declared
from einheads.operands import Declaration
from einheads.program import program_for

# Methods and functions that move numbers without computing with them.
VIEWS = {
    "permute",
    "transpose",
    "mT",
    "reshape",
    "flatten",
    "expand",
    "view_as",
    "unsqueeze",
    "squeeze",
    "diagonal",
}


def paste(text: str) -> Any:
    """Run the text of a module in an empty namespace and give its function."""
    space: dict[str, Any] = {}
    exec(text, space)
    return space["contract"]


def operations(text: str) -> list[str]:
    """The tensor operations of a text, in order, named as in torch."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    nodes.sort(key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0))
    names = [node.attr for node in nodes if node.attr not in {"shape", "nn", "dtype"}]
    products = re.findall(r" \* (?=x|y)", re.sub(r"#.*|\"\"\".*\"\"\"", "", text))
    return names + ["*"] * len(products)


def body(text: str) -> list[str]:
    """The lines below the docstring, without the axes behind them."""
    lines = text[text.index("def contract") :].splitlines()[2:]
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.mark.parametrize(
    ("pattern", "shapes", "lines"),
    [
        # Products of matrices.
        ("b i, o i -> b o", [(2, 3), (5, 3)], ["return F.linear(x1, x2)"]),
        ("b t i, o i -> b t o", [(2, 7, 3), (5, 3)], ["return F.linear(x1, x2)"]),
        ("b i, i o -> b o", [(2, 3), (3, 5)], ["return torch.mm(x1, x2)"]),
        ("b i j, b j k -> b i k", [(2, 3, 5), (2, 5, 7)], ["return torch.bmm(x1, x2)"]),
        # No product of matrices.
        ("a b -> b a", [(2, 3)], ["return x.mT"]),
        ("a b c -> c a b", [(2, 3, 5)], ["return x.permute(2, 0, 1)"]),
        ("a b c -> b", [(2, 3, 5)], ["return x.sum((0, 2))"]),
        ("a a ->", [(3, 3)], ["return x.diagonal(dim1=0, dim2=1).sum(0)"]),
        ("a b -> a b", [(2, 3)], ["return x.view_as(x)"]),
        ("a b, b -> a b", [(2, 3), (3,)], ["return x1 * x2"]),
        ("a b, a b -> a", [(2, 3), (2, 3)], ["return (x1 * x2).sum(1)"]),
        ("a b -> (a b)", [(2, 3)], ["return x.flatten(0, 1)"]),
        ("a b -> b 1 a", [(2, 3)], ["return x.mT.unsqueeze(1)"]),
    ],
)
def test_text(pattern: str, shapes: list[tuple[int, ...]], lines: list[str]) -> None:
    """Plain patterns become what one would write by hand."""
    assert body(eh.source(pattern, *shapes)) == lines


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_pasted_text_agrees(example: Case) -> None:
    """Stand-alone text runs in an empty namespace and gives what the definition gives."""
    tensors = example.tensors()
    text = eh.source(example.pattern, *tensors, **example.sizes)
    example.check(paste(text)(*tensors), tensors)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex128, torch.float32])
@pytest.mark.parametrize("name", ["sum all", "heads each their own", "low rank", "batched dot"])
def test_pasted_text_agrees_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    """Integers need other words (a dtype for sums), and get them."""
    example = BY_NAME[name]
    tensors = example.tensors(dtype)
    example.check(paste(eh.source(example.pattern, *tensors))(*tensors), tensors)


def test_text_is_symbolic() -> None:
    """The same text serves all sizes; only sizes that no tensor tells are arguments."""
    pattern = "... (h i), h o i -> ... (h o)"
    texts = {eh.source(pattern, (batch, 24), (3, 5, 8)) for batch in (64, 90, 100)}
    (text,) = texts
    for batch, heads, inner, outer in ((2, 3, 5, 7), (7, 2, 3, 5)):
        example = Case("other sizes", pattern, ((batch, heads * inner), (heads, outer, inner)), {})
        tensors = example.tensors()
        example.check(paste(text)(*tensors), tensors)


def test_sizes_that_no_tensor_tells_are_arguments() -> None:
    """With the given number as their default, and none where the number is made up."""
    text = eh.source("b (h d) -> h b d n", (2, 15), h=5, n=7)
    assert "def contract(x, h=5, n=7):" in text
    x = torch.randn(2, 15)
    assert paste(text)(x).shape == (5, 2, 3, 7)
    assert paste(text)(x, h=3, n=2).shape == (3, 2, 5, 2)
    assert "def contract(x, h):" in eh.source("b (h d) -> h b d")
    # A default may not come before an argument without one.
    assert "def contract(x, h, q=5):" in eh.source("(h d) (p q) -> h d p q", q=5)


@pytest.mark.parametrize(
    ("pattern", "header"),
    [
        ("b i, o i -> b o", "import torch.nn.functional as F\n\n\ndef"),
        ("b i, i o -> b o", "import torch\n\n\ndef"),
        ("a b -> b a", "def"),
        ("b i, o i, o p -> b p", "import torch\nimport torch.nn.functional as F\n\n\ndef"),
    ],
)
def test_imports_are_those_that_are_needed(pattern: str, header: str) -> None:
    """No more and no less."""
    axes = set(re.findall(r"\w", pattern))
    text = eh.source(pattern, **{axis: 2 if axis == "b" else 64 for axis in axes})
    assert text.startswith(header)


# How little it does


@pytest.mark.parametrize(
    ("pattern", "shapes", "expected"),
    [
        ("b t i, o i -> b t o", [(2, 3, 5), (7, 5)], ["linear"]),
        ("... i, h o i -> ... h o", [(2, 3, 5), (7, 11, 5)], ["flatten", "linear", "reshape"]),
        ("i, j -> i j", [(2,), (3,)], ["unsqueeze", "*"]),
        ("b i, b i -> b i", [(2, 3), (2, 3)], ["*"]),
    ],
)
def test_operations_are_counted(
    pattern: str, shapes: list[tuple[int, ...]], expected: list[str]
) -> None:
    """A plain linear is one linear; nothing is done that does nothing."""
    assert operations(eh.source(pattern, *shapes)) == expected


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ("b i, o i -> b o", "b 1 i, o i -> b o"),
        ("b i, o i -> b o", "b i, o i -> b 1 o"),
        ("b h i, h i o -> b h o", "b h 1 i, h i o -> b h 1 o"),
        ("b h i, h i o -> b h o", "1 b h i, h i 1 o -> b h o"),
    ],
)
def test_a_unit_axis_adds_no_copy_and_no_permute(plain: str, other: str) -> None:
    """Only a squeeze or an unsqueeze."""
    sizes = {"b": 64, "i": 32, "o": 16} | ({"h": 8} if "h" in plain else {})
    before, after = eh.explain(plain, **sizes), eh.explain(other, **sizes)
    assert after.bytes_copied == before.bytes_copied

    def permutes(story: eh.Explanation) -> int:
        return sum(step.verb == "permute" for step in story.steps)

    assert permutes(after) <= permutes(before)


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_one_product_for_each_contraction(example: Case) -> None:
    """As many products as the plan has contractions, and every other operation is a known one."""
    names = operations(eh.source(example.pattern, *example.tensors(), **example.sizes))
    products = [name for name in names if name in {"mm", "bmm", "matmul", "linear", "*"}]
    assert len(products) == len(example.shapes) - 1
    assert set(names) - set(products) <= {*VIEWS, "sum", "contiguous", "unbind", "stack"}


# Names


def test_names_cannot_clash() -> None:
    """Axes may be called like Python's keywords, like torch, like the operands and the results."""
    pattern = "torch F if x1, F torch y contract -> if x1 y match contract"
    text = eh.source(pattern, (2, 3, 5, 7), (3, 2, 11, 13), match=2)
    tensors = [torch.randn(2, 3, 5, 7), torch.randn(3, 2, 11, 13)]
    expected = torch.einsum("abcd,baef->cdef", *tensors)
    result = paste(text)(*tensors)
    assert result.shape == (5, 7, 11, 2, 13)
    torch.testing.assert_close(result, expected.unsqueeze(3).expand(-1, -1, -1, 2, -1))


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_text_has_nothing_but_the_function(example: Case) -> None:
    """Nothing of a pattern is code: only imports and one function, whose names are all its own."""
    tree = ast.parse(eh.source(example.pattern, *example.shapes, **example.sizes))
    *imports, function = tree.body
    assert all(isinstance(node, ast.Import) for node in imports)
    assert isinstance(function, ast.FunctionDef)
    bound = {argument.arg for argument in function.args.args}
    used: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            (bound if isinstance(node.ctx, ast.Store) else used).add(node.id)
    assert used <= bound | {"torch", "F"}


def test_layers_name_their_operands() -> None:
    """`source_declared` writes the names that it is given."""
    names = ["x", "weight", "bias"]
    shapes = [(64, 8, 32), (8, 16, 32)]
    text = source_declared("b h i, h o i -> b h o", shapes, {}, names=names, bias="h o")
    assert "def contract(x, weight, bias):" in text
    assert '"""b h i, h o i -> b h o, plus a bias: h o"""' in text
    x, weight, bias = torch.randn(3, 2, 5), torch.randn(2, 7, 5), torch.randn(2, 7)
    expected = torch.einsum("bhi,hoi->bho", x, weight) + bias
    torch.testing.assert_close(paste(text)(x, weight, bias), expected)


# The program is a function like any other


def compiled(pattern: str, *tensors: Tensor) -> Any:
    """The function that `einsum` runs for these tensors."""
    program, _ = program_for(Declaration(pattern), (), tensors)
    return program


def test_source_of_the_program_can_be_read() -> None:
    """`inspect.getsource` shows the text, which is what `source` gives."""
    tensors = torch.randn(2, 3), torch.randn(5, 3)
    program = compiled("b i, o i -> b o", *tensors)
    text = inspect.getsource(program.run)
    assert text == program.source
    assert eh.source("b i, o i -> b o", *tensors).endswith(text)


def test_tracebacks_show_the_line() -> None:
    """An error inside of a program points at its text, with the axes in the comment."""
    program = compiled("b i, i o -> b o", torch.randn(2, 3), torch.randn(3, 5))
    with pytest.raises(RuntimeError) as caught:
        program.run(torch.randn(2, 3), torch.randn(7, 5))
    shown = "".join(traceback.format_exception(caught.value))
    assert "return torch.mm(x1, x2)  # b o" in shown
    assert "b i, i o -> b o" in shown  # in the name of the file


def test_inner_results_are_let_go() -> None:
    """What has been read for the last time is no longer held when the next product is made."""
    case = Case("chain", "a b, b c, c d, d e -> a e", ((97, 53), (53, 31), (31, 29), (29, 7)), {})
    tensors = case.tensors()
    program, _ = program_for(Declaration(case.pattern), (), tensors)
    assert body(program.source) == [
        "y1 = torch.mm(x3, x4)",
        "y2 = torch.mm(x2, y1)",
        "del y1",
        "return torch.mm(x1, y2)",
    ]
    case.check(program.run(*tensors), tensors)


@pytest.mark.parametrize(
    ("pattern", "sizes"),
    [
        ("b i, i r, r o -> b o", {"b": 7, "i": 31, "r": 2, "o": 29}),  # the last product returns
        ("b i, i h r, h r o -> b h o", {"b": 7, "i": 31, "h": 3, "r": 2, "o": 29}),  # a view
    ],
)
def test_nothing_is_let_go_that_frees_nothing(pattern: str, sizes: dict[str, int]) -> None:
    """A line that frees nothing before the end has no place in a function."""
    text = eh.explain(pattern, **sizes).source
    assert "y1" in text
    assert "del " not in text


def test_values_that_are_returned_are_not_let_go() -> None:
    """Where inner values are wanted too, they stay."""
    case = Case("chain", "a b, b c, c d, d e -> a e", ((97, 53), (53, 31), (31, 29), (29, 7)), {})
    tensors = case.tensors()
    program, _ = program_for(Declaration(case.pattern), (), tensors)
    last, *_ = reversed(program.steps.products)
    inner = program.steps.products[:-1]
    found = program.keeping([last, *inner], ["x1", "x2", "x3", "x4"])(*tensors)
    case.check(found[0], tensors)
    torch.testing.assert_close(found[1], tensors[2] @ tensors[3])
    torch.testing.assert_close(found[2], tensors[1] @ found[1])

"""The story of a pattern: its words, its numbers, and the three spellings, which are executed."""

import json
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import einheads as eh
from cases import BY_NAME, CASES, Case, as_numpy
from einheads.explain import explain_declared
from einheads.explain.standalone import source_declared
from einheads.explain.story import Effect, Explanation, Matrices
from einheads.explain.subject import traits_of as subject_traits
from einheads.layout import layout
from einheads.operands import Declaration, traits_of
from einheads.program import prepare, program_for
from einheads.stopwatch import with_threads
from oracle import oracle
from strategies import random_cases

# Of this one nothing is computed, but its 20 axes make the definition slow.
SMALL = [example for example in CASES if example.name != "many axes in one operand"]
RANDOM = [
    replace(example, name=f"random {number}: {example.name}")
    for number, example in enumerate(random_cases(120, seed=3))
]

SEED = """\
b w h i, h o i -> b w h o

  x1      b w h i  (4, 10, 8, 64)
  x2      h o i    (8, 32, 64)
  result  b w h o  (4, 10, 8, 32)

Roles
  batch     h    in both and the result: a product for each
  contract  i    in both: multiplied, then summed
  left      b w  in x1 and the result
  right     o    in x2 and the result

Steps
  x1  fold b w           (b w) h i  (40, 8, 64)     view
  x1  permute            h (b w) i  (8, 40, 64)     view
  x2  permute            h i o      (8, 64, 32)     view
  y   bmm x1, x2 over i  h (b w) o  (8, 40, 32)     new, 40.0 KiB
  y   permute            (b w) h o  (40, 8, 32)     view
  y   unfold b w         b w h o    (4, 10, 8, 32)  view
  655,360 multiply-adds; copies nothing (operands and result hold 184.0 KiB)
  chosen over bmm h o i x h i (b w): its matrix products take longer

The same with unsqueeze, multiply, sum
  def by_definition(x1, x2):
      \"""b w h i, h o i -> b w h o\"""
      x1 = x1.unsqueeze(3)  # b w h 1 i
      return (x1 * x2).sum(4)  # b w h o

The same with torch.matmul
  def with_matmul(x1, x2):
      \"""b w h i, h o i -> b w h o\"""
      x1 = x1.unsqueeze(4)  # b w h i 1
      y = torch.matmul(x2, x1)  # b w h o 1
      return y.squeeze(4)  # b w h o

The same with torch.func.vmap
  def with_vmap(x1, x2):
      \"""b w h i, h o i -> b w h o\"""

      def one(x1, x2):
          \"""b w i, o i -> b w o\"""
          return F.linear(x1, x2)  # b w o

      each = torch.func.vmap(one, in_dims=(2, 0), out_dims=2)  # for each h
      return each(x1, x2)  # b w h o"""

CHAIN = """\
b i, i r s, r o ->

  x1      b i       (2, 3)
  x2      i r s     (3, 4, 5)
  x3      r o       (4, 6)
  result  a scalar  ()
  assumed: b=2 i=3 r=4 s=5 o=6 (other sizes may have other steps)

Roles
  sum  b s o  in one operand only: summed first

Contractions: 15 multiply-adds pair by pair, 720 all at once
  x2, x3 -> y1  contract r  left i  12
  y1, x1 -> y2  contract i          3"""


def run(text: str, *arguments: Any) -> Tensor:
    """Paste a function into a namespace with torch, and call it."""
    space: dict[str, Any] = {"torch": torch, "F": functional}
    before = set(space)
    exec(text, space)
    (function,) = (
        space[name] for name in space.keys() - before if name not in {"__builtins__", "torch", "F"}
    )
    result: Tensor = function(*arguments)
    return result


def texts(story: Explanation) -> list[str]:
    """The spellings that there are."""
    return [one.text for one in story.spellings if one.text is not None]


def with_bias(example: Case, story: Explanation, axes: Sequence[str]) -> tuple[Tensor, Any]:
    """A random bias with these axes, and what the definition gives with it."""
    bias = torch.randn([story.sizes[axis] for axis in axes], dtype=torch.float64)
    dots = sorted(axis for axis in story.sizes if axis.startswith("..."))
    names = {axis: axis.replace("...", "dots") for axis in dots}
    output = example.pattern.split("->")[1].replace("...", " ".join(names.values()))
    sizes = {names.get(axis, axis): size for axis, size in story.sizes.items()}
    spread = oracle(f"{' '.join(axes)} -> {output}", as_numpy(bias), **sizes)
    return bias, example.expected(example.tensors()) + spread


# The words


def test_story_of_the_forum_question() -> None:
    """The whole text, which is the face of the library."""
    story = eh.explain("b w h i, h o i -> b w h o", b=4, w=10, h=8, i=64, o=32)
    assert str(story) == SEED
    assert repr(story) == SEED


def test_story_of_several_operands_lists_contractions() -> None:
    """Three operands: pair by pair with costs, lonely axes, and sizes that are made up."""
    head = str(eh.explain("b i, i r s, r o ->")).partition("\n\nSteps")[0]
    assert head == CHAIN


def test_story_names_what_is_odd() -> None:
    """Diagonals, repeats, a bias and a lone operand have lines of their own."""
    story = str(eh.explain("a a b -> b n", (3, 3, 5), n=7))
    assert "  keep      b  in the operand and the result\n" in story
    assert "  sum       a  in one operand only: summed first\n" in story
    assert "  diagonal  a  more than once in an operand\n" in story
    assert "  repeat    n  only in the result\n" in story
    names = ["x", "weight", "bias"]
    story = str(explain_declared("b i, o i -> b o", None, {}, names=names, bias="o"))
    assert "  bias      o  added from bias\n" in story
    assert "  y  linear x, weight, bias over i  b o  (2, 4)  new, 32 bytes\n" in story
    story = str(explain_declared("b h, h -> b h", None, {}, bias="b"))
    assert "  y     add bias         b h  (2, 3)  new, 24 bytes\n" in story


def test_story_of_nothing_to_do() -> None:
    """The operand itself is the result, so there is no step and no other spelling."""
    story = eh.explain("a b -> a b", (2, 3))
    assert "Steps\n  none: the result is a view of the operand\n" in str(story)
    assert (
        story.definition.text
        == 'def by_definition(x):\n    """a b -> a b"""\n    return x.view_as(x)\n'
    )


# The data


def test_roles() -> None:
    """Each axis has one role in each contraction that it takes part in."""
    story = eh.explain("b t h i, h i r s, h r o -> b h o n", n=2)
    assert story.roles["h"] == ("batch", "batch")
    assert story.roles["t"] == story.roles["s"] == ("sum",)
    assert story.roles["n"] == ("repeat",)
    assert set(story.roles["i"]) == {"contract"}
    assert eh.explain("a b -> a").roles == {"a": ("keep",), "b": ("sum",)}


def test_copies_are_counted() -> None:
    """Folding axes that lie apart copies them, and says how many bytes of which dtype."""
    story = eh.explain("i a j, j k -> a i k", (64, 3, 64), (64, 64))
    assert story.bytes_copied == sum(
        step.bytes for step in story.steps if step.effect is Effect.COPY
    )
    patches = eh.explain("(h p) c, p c o -> h o", (6, 5), (2, 5, 7))
    assert patches.bytes_copied == 0
    heads = eh.explain("b t h d, b s h d -> b h t s", b=2, t=128, s=64, h=4, d=16)
    assert heads.bytes_copied == 4 * (2 * 128 * 4 * 16 + 2 * 64 * 4 * 16)
    double = explain_declared(
        "b t h d, b s h d -> b h t s",
        None,
        {"b": 2, "t": 128, "s": 64, "h": 4, "d": 16},
        itemsize=8,
    )
    assert double.bytes_copied == 2 * heads.bytes_copied
    assert double.bytes_held == 2 * heads.bytes_held


def test_the_runner_up_is_told_with_a_reason() -> None:
    """What the steps were chosen over: its products, its price, its copies, and why not."""
    story = eh.explain("b w h i, h o i -> b w h o", b=4, w=10, h=8, i=64, o=32)
    assert story.chosen == "bmm h (b w) i x h i o"
    other = story.runner_up
    assert other is not None
    assert other.price > 1
    assert other.bytes_copied == 0
    assert f"chosen over {other.steps}: {other.reason}" in str(story)
    told = story.to_dict()
    assert told["chosen"] == story.chosen
    assert told["runner_up"] == {
        "steps": other.steps,
        "price": other.price,
        "bytes_copied": 0,
        "reason": other.reason,
    }
    json.dumps(told)


COMPARED = [
    ("b t c, t s -> b s c", {"b": 32, "t": 64, "s": 64, "c": 64}),
    ("a b, a c -> c b", {"a": 700, "b": 2, "c": 2}),
    ("i a b, a j b -> i j", {"i": 300, "j": 300, "a": 20, "b": 20}),
    ("d b e a, e c -> a b c d", {"d": 14, "b": 5, "e": 15, "a": 2, "c": 4}),
    ("b t h d, b s h d -> b h t s", {"b": 2, "t": 128, "s": 64, "h": 4, "d": 16}),
    ("a b, a b -> a", {"a": 40, "b": 30}),
    ("a c, a b c -> c b", {"a": 2, "b": 2, "c": 2000}),
]


@pytest.mark.parametrize(("pattern", "sizes"), COMPARED)
def test_the_reason_fits_the_numbers(pattern: str, sizes: dict[str, int]) -> None:
    """Nothing cheaper is passed over, and what is said of copies is so."""
    story = eh.explain(pattern, **sizes)
    other = story.runner_up
    assert other is not None
    assert other.price >= 1
    assert other.steps != story.chosen
    assert (other.bytes_copied > 0) == ("copy" in other.steps)
    if other.reason.startswith("it copies"):
        assert other.reason == f"it copies {other.bytes_copied - story.bytes_copied:,} bytes more"
    if other.reason == "both cost the same":
        assert other.price < 1.01


def test_what_has_no_other_way_names_none() -> None:
    """One operand is not contracted, so there is nothing to choose."""
    assert eh.explain("a b -> b a").runner_up is None
    assert "chosen over" not in str(eh.explain("a b -> b a"))


def test_a_chain_names_another_schedule() -> None:
    """With three operands too, the next best way through all of them."""
    story = eh.explain("b i, i r, r o -> b o", b=64, i=512, r=16, o=512)
    assert story.runner_up is not None
    assert story.runner_up.price >= 1
    assert story.chosen.count(";") == story.runner_up.steps.count(";") == 1


def test_layouts_of_tensors_are_seen() -> None:
    """A transposed tensor, a transposed array and given strides tell the same story."""
    tensor = torch.randn(4, 2, 128, 16, dtype=torch.float64)
    x, other = tensor.permute(1, 2, 0, 3), torch.randn(2, 64, 4, 16, dtype=torch.float64)
    pattern = "b t h d, b s h d -> b h t s"
    told = eh.explain(pattern, x, other)
    assert told.itemsize == 8
    assert told.steps != eh.explain(pattern, x.contiguous(), other).steps
    assert told == eh.explain(pattern, x.numpy(), other.numpy())
    declared = explain_declared(
        pattern, [x.shape, other.shape], {}, layouts=[x.stride(), None], itemsize=8
    )
    assert told == declared
    dims = tuple((axis,) for axis in "bthd")
    known = layout(dims, x.stride(), told.sizes)
    shapes = [x.shape, other.shape]
    assert told == explain_declared(pattern, shapes, {}, layouts=[known, None], itemsize=8)


def test_matrices_tell_what_is_folded_and_looped() -> None:
    """Loop, rows, inner and columns of each kind of matrix product."""

    def matrices(pattern: str, *shapes: tuple[int, ...]) -> list[Matrices | None]:
        return [step.matrices for step in eh.explain(pattern, *shapes).steps if step.multiply_adds]

    assert matrices("... i, h o i -> ... h o", (2, 3, 5), (7, 11, 5)) == [
        Matrices((), ("...1", "...2"), ("i",), ("h", "o"))
    ]
    assert matrices("b w h i, h o i -> b w h o", (4, 10, 8, 64), (8, 32, 64)) == [
        Matrices(("h",), ("b", "w"), ("i",), ("o",))
    ]
    assert matrices("i, o i -> o", (64,), (32, 64))[0] is not None
    assert matrices("a b, b -> a b", (2, 3), (3,)) == [None]


def test_dictionary_is_json() -> None:
    """`to_dict` survives JSON unchanged and has everything."""
    story = explain_declared(
        "... (h i), h i r, r o -> ... o", [(2, 15), (3, 5, 7), (7, 11)], {}, bias="o"
    )
    told = story.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["inputs"][0] == {"name": "x1", "dims": [["...1"], ["h", "i"]], "shape": [2, 15]}
    assert told["bias"] == ["o"]
    assert told["roles"]["o"] == ["right"]
    assert set(told["spellings"]) == {"definition", "matmul", "vmap"}
    assert told["bytes_held"] == 4 * (30 + 105 + 77 + 11 + 22)


def test_explanation_cannot_be_changed() -> None:
    """It is data."""
    with pytest.raises(FrozenInstanceError):
        eh.explain("a -> a").pattern = "b -> b"  # type: ignore[misc]


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_story_is_about_what_runs(example: Case) -> None:
    """The steps cost what the plan says, and the text is that of the program."""
    tensors = example.tensors()
    story = eh.explain(example.pattern, *tensors, **example.sizes)
    assert sum(step.multiply_adds for step in story.steps) == story.multiply_adds
    program, _ = program_for(Declaration(example.pattern), tuple(example.sizes.items()), tensors)
    # The program takes its sizes without default values.
    assert story.source.split(":\n", 1)[1] == program.source.split(":\n", 1)[1]
    assert story.result.shape == example.expected(tensors).shape
    assert str(story).startswith(story.pattern)


# Shapes that nobody gave


def test_sizes_are_assumed() -> None:
    """Small, different, and said to be made up; `...` is one axis."""
    story = eh.explain("... (h i), h o i -> ... h o", h=3)
    assert story.sizes == {"...1": 5, "h": 3, "i": 2, "o": 4}
    assert story.assumed == ("i", "o", "...1")
    assert story.inputs[0].shape == (5, 6)
    assert "  assumed: i=2 o=4 ...1=5 (other sizes may have other steps)\n" in str(story)
    assert "assumed" not in str(eh.explain("a b -> a", a=2, b=3))


def test_many_axes_can_be_assumed() -> None:
    """From some number of axes on they have size one, or no tensor could hold the result."""
    example = BY_NAME["star of 60"]
    assert max(eh.explain(example.pattern).result.shape) == 13


def test_zero_can_be_given() -> None:
    """A composite with a factor of size zero does not tell the other one, which is then kept."""
    story = eh.explain("(h d) -> h d", h=0, d=3)
    assert story.result.shape == (0, 3)


@pytest.mark.parametrize(
    ("pattern", "operands", "sizes", "error", "message"),
    [
        ("a b -> a", ((2, 3),), {"b": 5}, eh.SizeError, "two sizes"),
        ("a b -> a", (), {"c": 5}, eh.SizeError, "'c'"),
        ("a b -> a", (), {"a": -1}, eh.SizeError, "no tensor has an axis of size -1"),
        ("a b -> a", (), {"a": 2.5}, TypeError, "integer"),
        ("a b -> a", (), {"a": True}, TypeError, "integer"),
        ("a b -> a c", (), {}, eh.SizeError, "'c'"),
        ("bwhi,hoi->bwho", (), {}, eh.SizeError, "did you mean 'b w h i, h o i -> b w h o'"),
        ("a b", (), {}, eh.PatternError, "no '->'"),
        ("a b -> a", (3,), {}, TypeError, "operand 1 is 3, which has no shape"),
        ("a b -> a", ("ab",), {}, TypeError, "operand 1 is 'ab', which has no shape"),
        ("a b -> a", ((2, 3), (2, 3)), {}, eh.SizeError, "operand"),
        (3, (), {}, TypeError, "pattern"),
    ],
)
@pytest.mark.parametrize("function", [eh.explain, eh.source])
def test_mistakes_are_refused(
    function: Any, pattern: Any, operands: Any, sizes: Any, error: type[Exception], message: str
) -> None:
    """With the words that `einsum` has for them."""
    with pytest.raises(error, match=message):
        function(pattern, *operands, **sizes)


# The spellings


@pytest.mark.parametrize("example", [*SMALL, *RANDOM], ids=lambda example: example.name)
def test_spellings_agree(example: Case) -> None:
    """Each spelling gives what the definition gives."""
    tensors = example.tensors()
    story = eh.explain(example.pattern, *tensors, **example.sizes)
    for text in texts(story):
        example.check(run(text, *tensors), tensors)


@pytest.mark.parametrize(
    "example",
    # Of those with many operands the chain of 29 gets a bias; the star would take seconds more.
    [example for example in SMALL[::2] if example.name != "star of 60"],
    ids=lambda example: example.name,
)
def test_spellings_agree_with_a_bias(example: Case) -> None:
    """With every second axis of the output as a bias, in the other order."""
    tensors = example.tensors()
    plain = eh.explain(example.pattern, *tensors, **example.sizes)
    output = [axis for dim in plain.result.dims for axis in dim]
    axes = [x for x in output if not x.startswith("...") and x not in plain.repeated][::-2]
    bias, expected = with_bias(example, plain, axes)
    shapes = [x.shape for x in tensors]
    declared = (example.pattern, shapes, example.sizes)
    names = [*(f"x_{k}" for k in range(len(tensors))), "bias"]
    story = explain_declared(*declared, names=names, bias=" ".join(axes), itemsize=8)
    assert sum(step.multiply_adds for step in story.steps) == story.multiply_adds
    source = source_declared(*declared, names=names, bias=" ".join(axes), itemsize=8)
    for text in [*texts(story), source]:
        np.testing.assert_allclose(run(text, *tensors, bias), expected, atol=1e-12)


@pytest.mark.parametrize("example", RANDOM, ids=lambda example: example.name)
def test_spellings_of_assumed_shapes_agree(example: Case) -> None:
    """Without operands, the spellings fit the shapes that the story shows."""
    told = eh.explain(example.pattern, *example.shapes, **example.sizes)
    story = eh.explain(example.pattern, **dict.fromkeys(told.repeated, 2))
    tensors = [torch.randn(value.shape, dtype=torch.float64) for value in story.inputs]
    sizes = {axis: size for axis, size in story.sizes.items() if not axis.startswith("...")}
    assumed = Case(example.name, example.pattern, tuple(x.shape for x in tensors), sizes)
    for text in texts(story):
        assumed.check(run(text, *tensors), tensors)


def test_spellings_are_what_they_say() -> None:
    """The definition multiplies and sums, `matmul` multiplies matrices, `vmap` maps."""
    story = eh.explain("b h t i, h i o -> b t (h o)")
    definition, matmul, vmap = texts(story)
    assert "matmul" not in definition
    assert ".sum(" in definition
    assert "torch.matmul(" in matmul
    assert ".sum(" not in matmul
    assert vmap.count("torch.func.vmap(") == 1
    assert eh.explain("b h i, b h i o -> b h o").vmap.text.count("torch.func.vmap(") == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pattern", "matmul", "vmap"),
    [
        ("a b -> b", "there is one operand, and a matrix product takes two", ""),
        (
            "a b -> b a",
            "there is one operand, and a matrix product takes two",
            "nothing is computed: the dimensions only move",
        ),
        ("a, b -> a b", "no axis is contracted, so a multiply does it all", ""),
        ("i, i ->", "", "no axis of the result is left to map over"),
        (
            "a a, a -> a",
            "no axis is contracted, so a multiply does it all",
            "no axis of the result is left to map over",
        ),
    ],
)
def test_spellings_that_make_no_sense_say_so(pattern: str, matmul: str, vmap: str) -> None:
    """No text, but a reason, in the data and in the story."""
    story = eh.explain(pattern)
    for spelling, reason in ((story.matmul, matmul), (story.vmap, vmap)):
        assert (spelling.text is None) == bool(reason)
        assert spelling.reason == reason
        if reason:
            assert f"The same with {spelling.title}\n  not written: {reason}" in str(story)


def test_spellings_keep_names_apart() -> None:
    """Operands and axes may have the names that the spellings use themselves."""
    tensors = [torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(3, 2, 7, dtype=torch.float64)]
    expected = oracle("a b c, b a d -> a d b", *map(as_numpy, tensors))
    pattern = "torch F x1, F torch each -> torch each F"
    for names in (["one", "each"], ["y", "y1"]):
        story = explain_declared(pattern, [x.shape for x in tensors], {}, names=names)
        assert len({*names, story.contractions[0].result}) == 3
        for text in [*texts(story), story.source]:
            np.testing.assert_allclose(run(text, *tensors), expected, atol=1e-12)


class TestKept:
    """What a backward needs besides the operands is told before it is run."""

    @pytest.mark.parametrize(
        ("pattern", "shapes", "kept", "size"),
        [
            ("b i, o i -> b o", [(3, 5), (7, 5)], (), 0),
            ("b i, i r, r o -> b o", [(64, 50), (50, 2), (2, 70)], ("y1",), 64 * 2 * 4),
            ("b t i, o i -> b o", [(3, 2, 5), (7, 5)], ("x1",), 3 * 5 * 4),
        ],
        ids=["operands alone", "an inner result", "a sum before"],
    )
    def test_names_and_bytes(
        self, pattern: str, shapes: list[tuple[int, ...]], kept: tuple[str, ...], size: int
    ) -> None:
        """The values and their size, in the text and in the data."""
        story = eh.explain(pattern, *shapes)
        assert tuple(value.name for value in story.kept) == kept
        assert story.bytes_kept == story.to_dict()["bytes_kept"] == size
        line = (
            f"for gradients, autograd keeps {' and '.join(kept)} beside the operands: {size} bytes"
        )
        assert (line in str(story)) == bool(kept)

    def test_autograd_keeps_just_that(self) -> None:
        """What autograd's own backward saves is the operands and what is told."""
        shapes = [(64, 50), (50, 2), (2, 70)]
        tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
        pattern = "b i, i r, r o -> b o"
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = eh.einsum(pattern, *tensors)
        own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        rest = sum(size for place, size in held.items() if place not in own)
        assert rest == eh.explain(pattern, *tensors).bytes_kept
        assert result.requires_grad


def test_a_layer_that_computes_again_keeps_nothing() -> None:
    """With `checkpoint=True`, gradients read the operands alone."""
    layer = eh.Einsum("b i, i r, r o -> b o", i=5, r=2, o=7)
    assert layer.explain((3, 5)).bytes_kept == 3 * 2 * 4
    layer.checkpoint = True
    for story in (layer.explain((3, 5)), layer.explain(b=3)):
        assert story.bytes_kept == 0
        assert "for gradients" not in str(story)


def test_sizes_that_a_layer_has_otherwise() -> None:
    """Nobody could call it so."""
    layer = eh.Einsum("b i, o i -> b o", i=5, o=7)
    assert layer.explain(b=3, i=5).sizes == {"b": 3, "i": 5, "o": 7}
    for tell in (layer.explain, layer.source):
        with pytest.raises(eh.SizeError, match="the layer has 'i' of size 5, not 9"):
            tell(b=3, i=9)


def test_a_layer_without_parameters_heeds_its_inputs() -> None:
    """Bytes, integers: those of what it is called with."""
    layer = eh.Einsum("b h d -> (h b) d")
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    assert layer.explain(x).bytes_copied == eh.explain("b h d -> (h b) d", x).bytes_copied
    counts = eh.Einsum("b t i -> b", summed="t i")
    whole = torch.ones(2, 3, 5, dtype=torch.int32)
    namespace: dict[str, Any] = {}
    exec(counts.source(whole), namespace)
    assert namespace["contract"](whole).dtype == counts(whole).dtype == torch.int32


def test_what_trains_is_explained_as_it_trains() -> None:
    """Gradients count in the order of contractions, for a layer and for operands alike."""
    layer = eh.Einsum("b i, i r, i r o -> b o", i=128, r=2, o=16)
    x = torch.randn(4, 128)
    operands = (x, *layer.parameters())
    told = set()
    for training in (True, False):
        with torch.set_grad_enabled(training):
            runs = prepare(Declaration(layer.pattern), (), operands).lowered.plan
            for story in (layer.explain(x), eh.explain(layer.pattern, *operands)):
                assert story.multiply_adds == runs.multiply_adds
        told.add(runs.multiply_adds)
    assert len(told) == 2


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.complex64],
    ids=str,
)
def test_what_is_told_runs(dtype: torch.dtype) -> None:
    """Whatever the numbers are, which decide how matrices have to lie."""
    pattern = "a r k, a c k -> a r c"
    left, right = torch.zeros(5, 300, 12, dtype=dtype), torch.zeros(5, 310, 12, dtype=dtype)
    program, _ = program_for(Declaration(pattern), (), (left, right))
    told = eh.explain(pattern, left, right)
    assert sum(step.effect is Effect.COPY for step in told.steps) == len(program.steps.copies)
    for threads in (1, 2):
        with with_threads(threads):
            assert subject_traits([left, right]) == traits_of([left, right], 2, autocast=False)
    array = np.zeros((5, 300, 12), np.float16)
    assert subject_traits([array]).half

"""The order of contraction: roles, costs, and what opt_einsum is asked."""

import itertools
import math

import pytest

from einheads.candidates import Traits
from einheads.layout import in_order
from einheads.pattern import parse
from einheads.plan import Plan, plan, plans
from einheads.planning import planned as cheapest
from einheads.sizes import bind


def planned(pattern: str, **sizes: int) -> Plan:
    """The plan of a pattern whose axes have these sizes."""
    parsed = parse(pattern)
    shapes = [tuple(sizes[name] for name in term.names) for term in parsed.operands]
    return plan(bind(parsed, shapes))


def test_roles_of_one_contraction() -> None:
    """Every axis has exactly one role."""
    (step,) = planned("b w h i, h o i -> b w h o", b=2, w=3, h=5, i=7, o=11).contractions
    assert step.batch == ("h",)
    assert step.contract == ("i",)
    assert step.left_axes == ("b", "w")
    assert step.right_axes == ("o",)
    assert step.multiply_adds == 2 * 3 * 5 * 7 * 11


def test_lonely_axes_leave_before_the_contraction() -> None:
    """An axis of one operand only costs no multiply-adds."""
    chosen = planned("a b, c b d -> c", a=2, b=3, c=5, d=7)
    assert chosen.lonely == (("a",), ("d",))
    assert chosen.operands == (("b",), ("c", "b"))
    assert chosen.multiply_adds == 15
    assert chosen.naive == 2 * 3 * 5 * 7


def test_the_cheap_order_is_found() -> None:
    """A chain of matrices is contracted from the thin side."""
    thin = planned("a b, b c, c d -> a d", a=2, b=50, c=60, d=70)
    assert [step.contract for step in thin.contractions] == [("b",), ("c",)]
    wide = planned("a b, b c, c d -> a d", a=90, b=80, c=60, d=2)
    assert [step.contract for step in wide.contractions] == [("c",), ("b",)]
    assert wide.multiply_adds == 80 * 60 * 2 + 90 * 80 * 2


def test_an_axis_of_three_operands_is_batch_until_its_last_use() -> None:
    """It is contracted only when nobody needs it any more."""
    chosen = planned("e b i, e i, i o, e o -> e b o", e=2, b=30, i=5, o=7)
    seen = [name for step in chosen.contractions for name in step.contract]
    assert sorted(seen) == ["i"]


@pytest.mark.parametrize("count", [3, 5, 9, 30, 70])
def test_any_number_of_operands(count: int) -> None:
    """A long chain contracts each inner axis once, pair by pair, with more axes than letters."""
    terms = [f"n{place} n{place + 1}" for place in range(count)]
    sizes = {f"n{place}": 2 + place % 3 for place in range(count + 1)}
    chosen = planned(f"{', '.join(terms)} -> n0 n{count}", **sizes)
    assert len(chosen.contractions) == count - 1
    used = [number for step in chosen.contractions for number in (step.left, step.right)]
    assert sorted(used) == list(range(2 * count - 2))
    summed = [name for step in chosen.contractions for name in step.contract]
    assert sorted(summed) == sorted(f"n{place}" for place in range(1, count))
    assert chosen.naive == math.prod(sizes.values())


def test_sizes_of_zero_do_not_confuse_the_search() -> None:
    """An empty axis makes every order free, and still a plan comes out."""
    chosen = planned("a b, b c, c d -> a d", a=0, b=3, c=5, d=7)
    assert len(chosen.contractions) == 2
    assert chosen.multiply_adds == 0 or chosen.contractions[0].contract == ("c",)


def test_other_sizes_to_plan_with() -> None:
    """Symbolic sizes are planned with the examples that come along."""
    parsed = parse("a b, b c, c d -> a d")
    bound = bind(parsed, [(2, 50), (50, 60), (60, 70)])
    other = plan(bound, {"a": 90, "b": 80, "c": 60, "d": 2})
    assert [step.contract for step in other.contractions] == [("c",), ("b",)]


class TestOrders:
    """Where several orders of contraction come into question."""

    def test_two_operands_have_one_order(self) -> None:
        """There is nothing to choose."""
        parsed = parse("a b, b c -> a c")
        assert len(plans(bind(parsed, [(2, 3), (3, 5)]))) == 1

    def test_the_first_has_the_fewest_multiply_adds(self) -> None:
        """Each order stands once, and those of far more multiply-adds are left out."""
        parsed = parse("b g k, b k d, b k -> b g d")
        found = plans(bind(parsed, [(7, 11, 13), (7, 13, 17), (7, 13)]))
        counts = [one.multiply_adds for one in found]
        assert len(found) > 1
        assert counts == sorted(counts)
        assert counts[0] == plan(bind(parsed, [(7, 11, 13), (7, 13, 17), (7, 13)])).multiply_adds
        assert counts[-1] <= 4 * counts[0]
        pairs = {tuple((step.left, step.right) for step in one.contractions) for one in found}
        assert len(pairs) == len(found)

    @pytest.mark.parametrize("batch", [1, 64])
    def test_five_operands_find_the_best_order(self, batch: int) -> None:
        """No order of all possible ones takes fewer multiply-adds."""
        text = "b i j, i r, j r, p r, q r -> b p q"
        sizes = {"b": batch, "i": 3, "j": 4, "p": 2, "q": 7, "r": 3}
        chosen = planned(text, **sizes)
        assert chosen.multiply_adds == self.fewest(text, sizes)

    def fewest(self, text: str, sizes: dict[str, int]) -> int:
        """The fewest multiply-adds of all orders, found by trying each."""
        left, right = text.split("->")
        terms = [frozenset(term.split()) for term in left.split(",")]
        output = frozenset(right.split())

        def search(values: list[frozenset[str]]) -> int:
            if len(values) == 1:
                return 0
            best = None
            for first, second in itertools.combinations(range(len(values)), 2):
                rest = [one for k, one in enumerate(values) if k not in (first, second)]
                both = values[first] | values[second]
                made = both & output.union(*rest)
                cost = math.prod(sizes[name] for name in both) + search([*rest, made])
                best = cost if best is None else min(best, cost)
            assert best is not None
            return best

        return search(terms)

    def test_gradients_count_where_they_are_wanted(self) -> None:
        """Each order may be chosen, and whichever is computes the pattern."""
        parsed = parse("b g k, b k d, b k -> b g d")
        bound = bind(parsed, [(7, 11, 13), (7, 13, 17), (7, 13)])
        layouts = [in_order(dims, bound.sizes) for dims in bound.operands]
        for trains in (False, True):
            found = cheapest(bound, bound.sizes, layouts, Traits(trains=trains))
            assert found.plan in plans(bound)
            assert found.steps.dims(found.steps.result) == bound.output

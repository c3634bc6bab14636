"""The kinds of work that a price is made of, each with how long one unit of it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

# How many times as much what one thread does alone counts, where several threads share the rest.
# Two of them are less than twice as fast: of 1 to 2, 1.5 and this chose best with two on an EPYC of
# the fourth generation. More threads were not to be had.
_ALONE = 1.75


@dataclass(frozen=True, slots=True)
class Rates:
    """Nanoseconds for one unit of each kind of work, for numbers of four bytes.

    Attributes:
        view: a call that only makes a view.
        copy_call: a call that copies.
        multiply_call: an elementwise product or sum of two tensors.
        sum_call: a sum over axes.
        mm_call: a product of two matrices.
        linear_call: the same by `F.linear`.
        fold_call: what it adds to both that the left one has several dimensions of rows.
        bmm_call: a product of two stacks of matrices.
        matmul_call: the same for stacks of several dimensions.
        copy_number: a number that is copied in a run.
        copy_run: a run: the innermost loop of a copy.
        copy_plane: the two innermost loops of a copy.
        copy_jump: a run in a copy that does not fit into the second cache.
        copy_strided: a number that is read alone, at a distance from the one before.
        copy_far: the same, if its line of memory will have left the first cache when the next
            number of it is wanted.
        copy_farther: the same for the second cache.
        copy_page: the same, if so many pages are touched meanwhile that their addresses are gone.
        copy_collision: the same, if the lines share a set of the first cache.
        copy_waiting: the same, if no cache holds the operand.
        run_waiting: a run of a copy or a sum that does not begin where the one before ends, if no
            cache holds the operand.
        tlb_first: a page of memory that a copy or an elementwise product comes back to, when it has
            touched so many others that the address is no longer in the first TLB.
        tlb_second: the same for the second TLB; for an operand of a matrix product as well, if it
            meets too few rows or columns to hide that it is read.
        cold: a number that is copied or multiplied beyond what the second cache holds.
        fresh: a number written to memory that the system hands out page by page.
        cold_multiply: what it adds that the number is multiplied, not copied.
        multiply_number: a number of an elementwise product.
        multiply_strided: the same where an operand is read at a distance.
        multiply_run: the innermost loop of an elementwise product.
        sum_near: a number that is summed along the innermost axis.
        sum_across: a number that is summed along another axis, many columns at once.
        sum_strided: a number that is summed alone.
        sum_run: the innermost loop of a sum.
        sum_plane: the two innermost loops of a sum over another axis.
        matrix: a matrix product of a stack.
        multiply_add: a multiply-add, with the columns rounded up to whole vectors.
        ragged: a number of the left matrix, for each further piece in which columns that do not
            fill a vector are multiplied.
        few: the same for each eight of fewer columns than make BLAS multiply well.
        few_dots: the same for each of these columns, where the summed axes lie innermost in both.
        few_dot: each of these dot products.
        few_crossed: a number of the left matrix for each of so few columns, where the summed axes
            lie innermost in the right matrix only.
        few_rows: a multiply-add of a single product, less and less the more rows there are.
        shared_product: that several threads share a product of two matrices.
        shared_wide: a number of its result then, if it has more than twice as many columns as rows.
        shared_copy: a number of a matrix that several threads copy, each of which then reads all of
            it, unlike its own matrices of a stack.
        shared_sum: a number that several threads sum along another axis than the innermost one, so
            that each reads what all of them have made.
        summed_plain: a step along the summed axes of a product of few rows and columns, where each
            addition waits for the one before; the left matrix stored with the summed axes
            innermost, the right one with the columns.
        summed_dot: the same, the summed axes innermost in both.
        summed_apart: the same, the summed axes innermost in neither.
        summed_crossed: the same, the summed axes innermost in the right matrix only.
        left_near: a number of the left matrix, stored with the summed axes innermost.
        left_far: the same, stored with the rows innermost.
        right_near: a number of the right matrix, stored with the summed axes innermost.
        right_far: the same, stored with the columns innermost.
        result: a number of the resulting matrix.
        ragged_result: what it adds that its rows are long and do not fill vectors.
        added_row: a row that is added to, if it is short and does not fill vectors.
        cold_result: as `result`, where the result of a stack is beyond the second cache and too few
            numbers are summed to hide the writing.
        cold_wide: the same in long rows.
        cold_single: as `cold_result`, for a single product.
        cold_made: a number of any result that no cache holds, beside that.
        cold_row: a row of it.
        cold_matrix: as `cold_made`, for a matrix that alone is so large.
        cold_operand: a number of the larger operand, where it is beyond the second cache and meets
            too few rows or columns to hide that it is read.
        skinny: a multiply-add of few rows where both operands are stored the other way round.
        vector: a number of a matrix that is multiplied with a vector, as is the single row of a
            matrix in a stack; stored with the summed axes outermost.
        vector_near: the same, stored with the summed axes innermost.
        vector_apart: what it adds to either that the vector itself is read at a distance.
        vector_dot: each dot product then; else each step along the summed axes, for a short result.
        tiny_matrix: a product that is so small that torch's own loops compute it.
        tiny_result: a number of its result.
        tiny_near: a multiply-add of it, both operands read in a row.
        tiny_rest: what it adds, for each number of a dot product that does not fill fours.
        tiny_far: as `tiny_near`, an operand read at a distance.
        gathered: a number of a matrix that BLAS cannot read as it lies.
        lone: a product of a stack in which each matrix is multiplied by a call of its own.
        alone: no rate, but how many times as much what only one thread does counts as what several
            of them share; 1 if there is one thread.
    """

    view: float
    copy_call: float
    multiply_call: float
    sum_call: float
    mm_call: float
    linear_call: float
    fold_call: float
    bmm_call: float
    matmul_call: float
    copy_number: float
    copy_run: float
    copy_plane: float
    copy_jump: float
    copy_strided: float
    copy_far: float
    copy_farther: float
    copy_page: float
    copy_collision: float
    copy_waiting: float
    run_waiting: float
    tlb_first: float
    tlb_second: float
    cold: float
    fresh: float
    cold_multiply: float
    multiply_number: float
    multiply_strided: float
    multiply_run: float
    sum_near: float
    sum_across: float
    sum_strided: float
    sum_run: float
    sum_plane: float
    matrix: float
    multiply_add: float
    ragged: float
    few: float
    few_dots: float
    few_dot: float
    few_crossed: float
    few_rows: float
    shared_product: float
    shared_wide: float
    shared_copy: float
    shared_sum: float
    summed_plain: float
    summed_dot: float
    summed_apart: float
    summed_crossed: float
    left_near: float
    left_far: float
    right_near: float
    right_far: float
    result: float
    ragged_result: float
    added_row: float
    cold_result: float
    cold_wide: float
    cold_single: float
    cold_made: float
    cold_row: float
    cold_matrix: float
    cold_operand: float
    skinny: float
    vector: float
    vector_near: float
    vector_apart: float
    vector_dot: float
    tiny_matrix: float
    tiny_result: float
    tiny_near: float
    tiny_rest: float
    tiny_far: float
    gathered: float
    lone: float
    alone: float = field(default=1.0, kw_only=True)

    def shared(self) -> Rates:
        """The same where several threads share the work; no thread helps another one with calls."""
        return replace(self, alone=_ALONE, **{name: _ALONE * getattr(self, name) for name in CALLS})


# The kinds of work, and those of them that are calls.
WORK = tuple(field.name for field in fields(Rates) if not field.kw_only)
CALLS = ("view", *[name for name in WORK if name.endswith("_call")])

__all__ = ["CALLS", "WORK", "Rates"]

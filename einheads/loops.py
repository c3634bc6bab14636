"""What matrix products cost for numbers of which BLAS makes none: torch's own loops make them.

Those loops are simple. Where the rows of the right matrix lie densely, each number of the left one
is multiplied by a whole row, which is added to a row of the result; otherwise every number of the
result is a dot product. So it matters much more than with BLAS how matrices lie, and how long rows
are. The file is data, and knows nothing of layouts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .units import Rates


@dataclass(frozen=True, slots=True)
class LoopRates(Rates):
    """The same for numbers that torch multiplies in loops of its own; these whatever their width.

    Attributes:
        loop_matrix: a product of a stack.
        loop_tiny: a product of a stack that is so small that no matrix is made of it.
        loop_tiny_result: a number of its result.
        loop_tiny_number: a multiply-add of it.
        loop_vector_near: a multiply-add of a matrix and a vector, the matrix stored with the summed
            axes innermost.
        loop_vector_far: the same for a matrix stored the other way.
        loop_row: a number of the left matrix, which meets a row of the right one.
        loop_row_number: each number of that row.
        loop_dot: a dot product, both operands read in a row.
        loop_dot_number: each multiply-add of it.
        loop_crossed: a dot product, the left operand read at a distance.
        loop_crossed_number: each multiply-add of it.
        loop_rest: a number that fills no vectors, in the innermost loop of an elementwise product
            or a sum.
    """

    loop_matrix: float
    loop_tiny: float
    loop_tiny_result: float
    loop_tiny_number: float
    loop_vector_near: float
    loop_vector_far: float
    loop_row: float
    loop_row_number: float
    loop_dot: float
    loop_dot_number: float
    loop_crossed: float
    loop_crossed_number: float
    loop_rest: float

    def product(
        self,
        shape: tuple[int, int, int, int],
        near: tuple[bool, bool],
        *,
        stacked: bool,
        tiny: bool,
    ) -> float:
        """A product or a stack of them, without the call.

        Args:
            shape: how many, rows of the left matrix, columns of the right one, and summed numbers.
            near: whether the left and the right matrix are stored with the summed axes innermost.
            stacked: whether it is a stack, even of one.
            tiny: whether each product of the stack is too small to be seen as one of matrices.
        """
        batch, rows, columns, contract = shape
        left, right = near
        made, work = rows * columns, rows * columns * contract
        if tiny:
            each = self.loop_tiny + made * self.loop_tiny_result + work * self.loop_tiny_number
            return batch * each
        each = self.loop_matrix if stacked else 0.0
        if columns == 1 or (rows == 1 and not stacked):
            row = left if columns == 1 else right
            each += work * (self.loop_vector_near if row else self.loop_vector_far)
        elif not right:
            each += rows * contract * self.loop_row + work * self.loop_row_number
        elif left:
            each += made * self.loop_dot + work * self.loop_dot_number
        else:
            each += made * self.loop_crossed + work * self.loop_crossed_number
        return batch * each

    def least(self, shape: tuple[int, int, int, int], *, stacked: bool, tiny: bool) -> float:
        """What it costs at least, however the operands lie and whichever is on the left."""
        batch, rows, columns, contract = shape
        return min(
            self.product(one, near, stacked=stacked, tiny=tiny)
            for one in {shape, (batch, columns, rows, contract)}
            for near in ((True, True), (False, True), (False, False))
        )


# Read off 400 products of random shapes (1 to 400 rows, columns and summed numbers, alone and in
# stacks) of each kind, on one core of a shared server with AVX-512 and torch 2.13: products are off
# by a factor of 1.2 typically. Whatever is not a product: off tensors of 90,000 numbers and more,
# and for numbers of four bytes, as all rates. On 60 random contractions of which nothing was read
# off, `torch.einsum` takes 1.75 times as long with int8 (0.45 at worst), with the rates of floats
# 1.40 (0.10); with int16 1.70 (0.46) for 1.34 (0.09), with float16 1.74 (0.89) for 1.33 (0.71). For
# int32, 1.56 (0.65); single rates of the usual kind gave 1.34 (0.18). bfloat16 is none of these:
# torch has kernels for it.
# `loop_rest` and `sum_run` were read off runs of 2 to 1,000 numbers, on an EPYC of the fourth
# generation. There, on 40 small random contractions that nothing was read off, `torch.einsum` takes
# 2.63 times as long with int8 (1.04 at worst), 2.25 (0.30) without; with int16 2.66 (1.12) for 2.51
# (0.60), with int32 2.12 (0.74) for 2.13 (1.07), with float16 1.71 (0.97) for 1.70 (0.96).
LOOPS: dict[str, dict[str, float]] = {
    "int8": {
        "copy_strided": 1.8,
        "multiply_number": 0.2,
        "multiply_strided": 1.6,
        "sum_strided": 8.7,
        "sum_run": 4.0,
        "loop_matrix": 1170.0,
        "loop_tiny": 10.3,
        "loop_tiny_result": 2.06,
        "loop_tiny_number": 0.493,
        "loop_vector_near": 0.275,
        "loop_vector_far": 0.0921,
        "loop_row": 3.84,
        "loop_row_number": 0.0471,
        "loop_dot": 4.97,
        "loop_dot_number": 0.0824,
        "loop_crossed": 2.19,
        "loop_crossed_number": 0.312,
        "loop_rest": 0.44,
    },
    "int16": {
        "copy_strided": 0.9,
        "multiply_strided": 0.8,
        "sum_strided": 4.3,
        "sum_run": 2.0,
        "loop_matrix": 1220.0,
        "loop_tiny": 16.2,
        "loop_tiny_result": 1.84,
        "loop_tiny_number": 0.694,
        "loop_vector_near": 0.29,
        "loop_vector_far": 0.0904,
        "loop_row": 3.37,
        "loop_row_number": 0.0486,
        "loop_dot": 3.28,
        "loop_dot_number": 0.0512,
        "loop_crossed": 2.51,
        "loop_crossed_number": 0.382,
        "loop_rest": 0.44,
    },
    "int32": {
        "sum_strided": 2.2,
        "sum_run": 1.0,
        "loop_matrix": 1280.0,
        "loop_tiny": 11.6,
        "loop_tiny_result": 1.72,
        "loop_tiny_number": 0.593,
        "loop_vector_near": 0.249,
        "loop_vector_far": 0.142,
        "loop_row": 2.63,
        "loop_row_number": 0.0996,
        "loop_dot": 2.88,
        "loop_dot_number": 0.074,
        "loop_crossed": 3.52,
        "loop_crossed_number": 0.293,
        "loop_rest": 0.44,
    },
    "float16": {
        "copy_strided": 0.9,
        "loop_matrix": 1210.0,
        "loop_tiny": 2.56,
        "loop_tiny_result": 4.36,
        "loop_tiny_number": 2.35,
        "loop_vector_near": 0.704,
        "loop_vector_far": 0.705,
        "loop_row": 0.231,
        "loop_row_number": 0.835,
        "loop_dot": 19.2,
        "loop_dot_number": 0.136,
        "loop_crossed": 2.01,
        "loop_crossed_number": 0.829,
        "loop_rest": 0.7,
    },
}


__all__ = ["LOOPS", "LoopRates"]

"""How long operations take on a kind of device, as data.

A rate is nanoseconds for one unit of work: a call, a number that is copied, a multiply-add. `price`
knows how many units a program needs; a program costs the sum of units times rates. Only the ratios
matter, since prices rank programs and promise nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import EinheadsError


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
        matrix: a matrix product of a stack.
        multiply_add: a multiply-add, with the columns rounded up to whole vectors.
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
        cold_result: the same where the result of a stack is beyond the second cache and too few
            numbers are summed to hide the writing.
        cold_wide: the same in long rows.
        cold_single: as `cold_result`, for a single product.
        cold_operand: a number of the larger operand, where it is beyond the second cache and meets
            too few rows or columns to hide that it is read.
        skinny: a multiply-add of few rows where both operands are stored the other way round.
        vector: a number of a matrix that is multiplied with a vector, as is the single row of a
            matrix in a stack; stored with the summed axes outermost.
        vector_near: the same, stored with the summed axes innermost.
        vector_dot: each dot product then; else each step along the summed axes, for a short result.
        tiny_matrix: a product that is so small that torch's own loops compute it.
        tiny_result: a number of its result.
        tiny_near: a multiply-add of it, both operands read in a row.
        tiny_far: the same, an operand read at a distance.
        gathered: a number of a matrix that BLAS cannot read as it lies.
        lone: a product of a stack in which each matrix is multiplied by a call of its own.
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
    matrix: float
    multiply_add: float
    summed_plain: float
    summed_dot: float
    summed_apart: float
    summed_crossed: float
    left_near: float
    left_far: float
    right_near: float
    right_far: float
    result: float
    cold_result: float
    cold_wide: float
    cold_single: float
    cold_operand: float
    skinny: float
    vector: float
    vector_near: float
    vector_dot: float
    tiny_matrix: float
    tiny_result: float
    tiny_near: float
    tiny_far: float
    gathered: float
    lone: float


# AVX-512: found as by `python -m einheads bench --calibrate`, with two seeds, on one core of a
# shared server (Intel Xeon with AVX-512 and 2 MiB of second cache, torch 2.13 with MKL), in float32
# with one thread: 30,535 timed lowerings of 1,200 random contractions. Those for vectors, and for
# what is multiplied beyond the cache, were then read off the times of single operations, products
# with few rows or columns most of all. On the quarter of the contractions that was kept back, the
# choice takes 1.072 times as long as the fastest lowering in the geometric mean, 2.88 times at
# worst; a price is typically off by a factor of 1.11. No lowering gathers, so `gathered` and `lone`
# are estimates.
AVX512 = Rates(
    view=769.0,
    copy_call=1860.0,
    multiply_call=1080.0,
    sum_call=1320.0,
    mm_call=884.0,
    linear_call=1870.0,
    fold_call=251.0,
    bmm_call=894.0,
    matmul_call=3870.0,
    copy_number=0.15,
    copy_run=0.608,
    copy_plane=22.2,
    copy_jump=2.62,
    copy_strided=0.459,
    copy_far=0.00793,
    copy_farther=0.57,
    copy_page=0.0854,
    copy_collision=1.08,
    cold=0.106,
    fresh=0.745,
    cold_multiply=0.07,
    multiply_number=0.0986,
    multiply_strided=0.401,
    multiply_run=2.37,
    sum_near=0.0845,
    sum_across=0.0992,
    sum_strided=1.12,
    sum_run=7.24,
    matrix=35.2,
    multiply_add=0.00957,
    summed_plain=1.35,
    summed_dot=0.0337,
    summed_apart=0.815,
    summed_crossed=2.11,
    left_near=0.0389,
    left_far=0.129,
    right_near=0.112,
    right_far=0.00878,
    result=0.0433,
    cold_result=0.106,
    cold_wide=0.00397,
    cold_single=0.0,
    cold_operand=0.108,
    skinny=0.0926,
    vector=0.036,
    vector_near=0.048,
    vector_dot=2.0,
    tiny_matrix=1.59,
    tiny_result=1.28,
    tiny_near=0.253,
    tiny_far=0.677,
    gathered=1.0,
    lone=2000.0,
)

# AVX2 and all others: found in the same way, with the same lessons and 250 more without batch axes,
# whose results are beyond the second cache, on one core of another shared server (AMD EPYC with
# AVX2 and 512 KiB of second cache, MKL as well): 39,072 timed lowerings of 1,450 contractions. It
# was a restless machine, and a price is typically off by a factor of 1.32. On the quarter that was
# kept back the choice takes 1.144 times as long as the fastest lowering in the geometric mean, 4.72
# times at worst; with the rates above it would take 1.259 times as long. A single product is slow
# there to write a large result, and a stack of its parts is not: `cold_single`.
AVX2 = Rates(
    view=2250.0,
    copy_call=4380.0,
    multiply_call=1720.0,
    sum_call=4720.0,
    mm_call=1400.0,
    linear_call=4020.0,
    fold_call=277.0,
    bmm_call=879.0,
    matmul_call=4020.0,
    copy_number=0.255,
    copy_run=3.23,
    copy_plane=25.7,
    copy_jump=2.13,
    copy_strided=1.2,
    copy_far=0.00832,
    copy_farther=0.303,
    copy_page=0.493,
    copy_collision=1.1,
    cold=0.147,
    fresh=0.807,
    cold_multiply=0.0686,
    multiply_number=0.185,
    multiply_strided=0.596,
    multiply_run=5.77,
    sum_near=0.44,
    sum_across=0.0994,
    sum_strided=2.1,
    sum_run=10.8,
    matrix=132.0,
    multiply_add=0.0312,
    summed_plain=1.1,
    summed_dot=0.0334,
    summed_apart=0.86,
    summed_crossed=2.15,
    left_near=0.891,
    left_far=0.931,
    right_near=0.105,
    right_far=0.0664,
    result=0.104,
    cold_result=0.228,
    cold_wide=0.0033,
    cold_single=0.373,
    cold_operand=0.16,
    skinny=0.0556,
    vector=0.0947,
    vector_near=0.097,
    vector_dot=1.4,
    tiny_matrix=1.58,
    tiny_result=2.38,
    tiny_near=0.62,
    tiny_far=1.5,
    gathered=1.0,
    lone=2000.0,
)

# Not calibrated: reckoned from data sheets, never fitted to a clock. An H100 multiplies and adds
# about 25 float32 pairs in a picosecond (50 TFLOP/s) and moves 3 TB/s, so a number that is read and
# written takes 2.7 ps; read at a distance, each takes a sector of 32 bytes, eight times as much. A
# launch costs what the driver takes, some 5 us, whatever is in it, and a view costs what it costs
# on the CPU. A matrix of a stack has to fill a part of the device: what is small pays a tile of
# 64 by 64. There are no caches to miss that a fit could not see better.
CUDA = Rates(
    view=1000.0,
    copy_call=6000.0,
    multiply_call=6000.0,
    sum_call=7000.0,
    mm_call=7000.0,
    linear_call=7500.0,
    fold_call=1000.0,
    bmm_call=7000.0,
    matmul_call=9000.0,
    copy_number=0.0027,
    copy_run=0.0,
    copy_plane=0.0,
    copy_jump=0.0,
    copy_strided=0.012,
    copy_far=0.0,
    copy_farther=0.0,
    copy_page=0.0,
    copy_collision=0.0,
    cold=0.0,
    fresh=0.0,
    cold_multiply=0.0,
    multiply_number=0.004,
    multiply_strided=0.012,
    multiply_run=0.0,
    sum_near=0.0015,
    sum_across=0.0015,
    sum_strided=0.006,
    sum_run=0.002,
    matrix=0.5,
    multiply_add=0.00005,
    summed_plain=0.02,
    summed_dot=0.02,
    summed_apart=0.02,
    summed_crossed=0.02,
    left_near=0.0013,
    left_far=0.0013,
    right_near=0.0013,
    right_far=0.0013,
    result=0.0013,
    cold_result=0.0,
    cold_wide=0.0,
    cold_single=0.0,
    cold_operand=0.0,
    skinny=0.0,
    vector=0.0013,
    vector_near=0.0013,
    vector_dot=0.0,
    tiny_matrix=0.5,
    tiny_result=0.002,
    tiny_near=0.0005,
    tiny_far=0.0005,
    gathered=0.012,
    lone=7000.0,
)

_DEVICES = {"cuda": CUDA}

# The kinds of CPU, and the variable of the environment that names one.
CPUS = {"avx512": AVX512, "avx2": AVX2}
CPU_VARIABLE = "EINHEADS_CPU"


def rates_for(device: str) -> Rates:
    """The rates of a device type; those of this machine's CPU for one that nobody has timed.

    Example:
        >>> rates_for("cuda") is CUDA, rates_for("cpu") is rates_for("mps")
        (True, True)
    """
    return _DEVICES.get(device) or CPUS[cpu_kind()]


@lru_cache(maxsize=1)
def cpu_kind() -> str:
    """Whose rates this machine's CPU has: "avx512" if it has such instructions, else "avx2".

    The environment may say otherwise, so that all machines of a cluster choose alike.

    Raises:
        EinheadsError: the environment names no kind.
    """
    told = os.environ.get(CPU_VARIABLE)
    if not told:
        return _kind_of(Path("/proc/cpuinfo"))
    if told not in CPUS:
        raise EinheadsError(
            f"{CPU_VARIABLE}={told!r} in the environment is no kind of CPU",
            notes=[f"write: {' or '.join(f'{CPU_VARIABLE}={kind}' for kind in CPUS)}"],
        )
    return told


def _kind_of(path: Path) -> str:
    # Only Linux tells so quickly. A large server needs long to tell of all its cores, so the first
    # one speaks for them. Elsewhere, as on most computers, there are none.
    try:
        with path.open(encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        flags = ""
    return "avx512" if "avx512f" in flags.split() else "avx2"

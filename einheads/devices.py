"""How long operations take on each kind of device: the measured rates, as data.

A rate is nanoseconds for one unit of work: a call, a number that is copied, a multiply-add. Only
the ratios matter, since prices rank programs and promise nothing.
"""

from __future__ import annotations

from .units import Rates

# AVX-512: found as by `python -m einheads bench --calibrate`, with two seeds, on one core of a
# shared server (Intel Xeon with AVX-512 and 2 MiB of second cache, torch 2.13 with MKL), in float32
# with one thread: 30,535 timed lowerings of 1,200 random contractions. Those for vectors, and for
# what is multiplied beyond the cache, were then read off the times of single operations, products
# with few rows or columns most of all. On the quarter of the contractions that was kept back, the
# choice takes 1.072 times as long as the fastest lowering in the geometric mean, 2.88 times at
# worst; a price is typically off by a factor of 1.11. No lowering gathers, so `gathered` and `lone`
# are estimates. Some rates were set by hand later. Those of tiny products: to stacks of 1,000 that
# sum 2 to 19 numbers for each of 20 results. `ragged_result`: products of 6 to 100 summed
# numbers take 0.05 to 0.08 more for each number of a result whose rows do not fill vectors, be it
# in a cache or not. `tlb_first` and `tlb_second`, which take the place of `copy_page`: where the
# worst choices waited for addresses. On 1,050 new contractions (26,938 lowerings) the choice takes
# 1.054 times as long as the fastest one, 2.4 times at worst; with the old ones 1.070 and 3.6.
# `added_row`: 64 and 256 rows of 8, 24 and 40 numbers, products that sum 4 and 32; rows of 16, 32
# and 48 take nothing.
# `vector_apart`: matrices of 64 to 4,096 rows times a vector of which every second to 64th number
# is read; between 0.02 and 0.27, 0.1 where the matrix is stored the other way round.
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
    copy_page=0.0,
    copy_collision=1.08,
    copy_waiting=0.0,
    run_waiting=0.0,
    tlb_first=2.0,
    tlb_second=15.0,
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
    sum_plane=7.24,
    matrix=35.2,
    multiply_add=0.00957,
    ragged=0.0,
    few=0.0,
    few_dots=0.0,
    few_dot=0.0,
    few_crossed=0.0,
    few_rows=0.0,
    shared_product=0.0,
    shared_wide=0.0,
    shared_copy=0.0,
    shared_sum=0.0,
    summed_plain=1.35,
    summed_dot=0.0337,
    summed_apart=0.815,
    summed_crossed=2.11,
    left_near=0.0389,
    left_far=0.129,
    right_near=0.112,
    right_far=0.00878,
    result=0.0433,
    ragged_result=0.045,
    added_row=5.3,
    cold_result=0.106,
    cold_wide=0.00397,
    cold_single=0.0,
    cold_made=0.0,
    cold_row=0.0,
    cold_matrix=0.0,
    cold_operand=0.108,
    skinny=0.0926,
    vector=0.036,
    vector_near=0.048,
    vector_apart=0.1,
    vector_dot=2.0,
    tiny_matrix=1.59,
    tiny_result=1.8,
    tiny_near=0.2,
    tiny_rest=0.3,
    tiny_far=0.62,
    gathered=1.0,
    lone=2000.0,
)

# AVX2 and all others: on one core of another shared server (AMD EPYC with AVX2 and 512 KiB of
# second cache, MKL as well), a restless machine whose memory was twice as slow at times. First
# 3,800 single operations were timed, the best of 12 to 20 times each, and rates fitted to them:
# copies, elementwise products, sums, and products of matrices of all shapes, those with few columns
# and those with large results among them. The price of one that was kept back is typically off by
# 1.08 for a sum, 1.14 for a product of matrices. From there the rates were fitted to 57,343 timed
# lowerings of 2,150 contractions. On the quarter of these that was kept back, the choice takes
# 1.140 times as long as the fastest lowering in the geometric mean, 4.72 times at worst, and a
# price is typically off by a factor of 1.29; with the rates above it would take 1.223 times as
# long. Of the worst losses half were gone when they were timed again. Three rates were then set by
# hand: `ragged` to what products of 16 to 103 columns take when they are timed one by one, which
# the fit had bent; `few_rows` to where choices lose least with one thread; `run_waiting` to less
# than the 25 that sums and copies of 8 to 32 MiB show, since more of it made choices no better. On
# 1,000 other contractions (26,223 lowerings) the choice takes 1.127 times as long as the fastest
# one with one thread (1.135 before) and 1.105 with two (1.135).
# Five rates (`copy_jump`, `multiply_strided`, `sum_plane`, `ragged`, `right_far`) were moved later
# to where choices lose less on 1,950 contractions with one and two threads on an EPYC of the fourth
# generation, which has rates of its own by now. What several threads share was found there as well,
# while these rates still were its own: on 700 contractions, of which only how much more counts what
# is not shared was learned, the choice with two threads takes 1.128 times as long as the fastest
# lowering, and 1.157 without that.
AVX2 = Rates(
    view=2110.0,
    copy_call=5000.0,
    multiply_call=2660.0,
    sum_call=5430.0,
    mm_call=2230.0,
    linear_call=5180.0,
    fold_call=293.0,
    bmm_call=1700.0,
    matmul_call=4110.0,
    copy_number=0.285,
    copy_run=2.32,
    copy_plane=31.8,
    copy_jump=2.03,
    copy_strided=1.01,
    copy_far=0.186,
    copy_farther=0.043,
    copy_page=1.2,
    copy_collision=3.12,
    copy_waiting=1.12,
    run_waiting=10.0,
    tlb_first=0.0,
    tlb_second=0.0,
    cold=0.119,
    fresh=0.457,
    cold_multiply=0.00399,
    multiply_number=0.224,
    multiply_strided=1.03,
    multiply_run=5.82,
    sum_near=0.0611,
    sum_across=0.0847,
    sum_strided=1.61,
    sum_run=13.3,
    sum_plane=28.2,
    matrix=109.0,
    multiply_add=0.0265,
    ragged=0.42,
    few=1.37,
    few_dots=0.0195,
    few_dot=3.71,
    few_crossed=0.192,
    few_rows=0.015,
    shared_product=6000.0,
    shared_wide=1.0,
    shared_copy=0.75,
    shared_sum=0.3,
    summed_plain=0.27,
    summed_dot=0.0198,
    summed_apart=0.25,
    summed_crossed=0.561,
    left_near=0.0125,
    left_far=0.0536,
    right_near=0.22,
    right_far=0.151,
    result=0.154,
    ragged_result=0.0,
    added_row=0.0,
    cold_result=0.0657,
    cold_wide=0.00222,
    cold_single=0.257,
    cold_made=0.274,
    cold_row=8.72,
    cold_matrix=0.917,
    cold_operand=0.16,
    skinny=0.0065,
    vector=0.0965,
    vector_near=0.131,
    vector_apart=0.0,
    vector_dot=1.11,
    tiny_matrix=1.62,
    tiny_result=2.48,
    tiny_near=0.677,
    tiny_rest=0.0,
    tiny_far=1.8,
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
    copy_waiting=0.0,
    run_waiting=0.0,
    tlb_first=0.0,
    tlb_second=0.0,
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
    sum_plane=0.002,
    matrix=0.5,
    multiply_add=0.00005,
    ragged=0.0,
    few=0.0,
    few_dots=0.0,
    few_dot=0.0,
    few_crossed=0.0,
    few_rows=0.0,
    shared_product=0.0,
    shared_wide=0.0,
    shared_copy=0.0,
    shared_sum=0.0,
    summed_plain=0.02,
    summed_dot=0.02,
    summed_apart=0.02,
    summed_crossed=0.02,
    left_near=0.0013,
    left_far=0.0013,
    right_near=0.0013,
    right_far=0.0013,
    result=0.0013,
    ragged_result=0.0,
    added_row=0.0,
    cold_result=0.0,
    cold_wide=0.0,
    cold_single=0.0,
    cold_made=0.0,
    cold_row=0.0,
    cold_matrix=0.0,
    cold_operand=0.0,
    skinny=0.0,
    vector=0.0013,
    vector_near=0.0013,
    vector_apart=0.0,
    vector_dot=0.0,
    tiny_matrix=0.5,
    tiny_result=0.002,
    tiny_near=0.0005,
    tiny_rest=0.0,
    tiny_far=0.0005,
    gathered=0.012,
    lone=7000.0,
)

# What int64 takes on a CPU with AVX-512, for which BLAS has no kernels, but torch has some: per
# float32 of the same size, as all rates. Read off a few products, in stacks and alone, beside
# float32: it takes 10 times as long, and some microseconds for each matrix of a stack. On 45 random
# contractions that nothing was read off, `torch.einsum` takes 1.70 times as long, 1.37 before.
NUMBERS = {
    "int64": {
        "multiply_add": 0.05,
        "matrix": 2500.0,
        "vector": 0.09,
        "vector_near": 0.19,
        "multiply_number": 0.22,
    },
}

__all__ = ["AVX2", "AVX512", "CUDA", "NUMBERS"]

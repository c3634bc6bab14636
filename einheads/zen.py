"""How long operations take on AMD's processors since the fourth generation of Zen, as data.

As in `devices`; the file is another one only because there is so much of it.
"""

from __future__ import annotations

from .units import Rates

# Zen 4: on a shared server (AMD EPYC of the fourth generation, family 25 with AVX-512 and 1 MiB of
# second cache, torch 2.13 with MKL, which multiplies with AVX2 there), in float32. First 3,200
# single operations were timed with one thread; the price of one that was kept back is typically off
# by 1.09. From there the rates were fitted to three quarters of 1,300 contractions, half of them
# like those of the suites, each with one thread and with two: 76,013 lowerings in all. Rates that
# AVX2 has at zero began where those of AVX-512 are, since a rate of nothing stays nothing.
# Some were then set by hand, as the lessons have few results that no cache holds: the rates for
# those that begin with `cold`, but for three small ones, to half of what AVX2 has; `fresh` and
# `copy_waiting`, whose effect on the lessons is small, to more than was found; and `few_rows` to
# nearly three times of it; that was judged on all lessons. On the last quarter the choice takes
# 1.068 times as long as the fastest lowering with one thread and 1.093 with two; with the rates of
# AVX2, which knew nothing of threads then, 1.086 and 1.118. Of 600 contractions that nothing was
# learned from, 101 get other steps with one thread than by these, which take 0.94 of the time; with
# two 132, which take 0.84.
# What a wide result takes two threads depends on which cores the machine lends: 0.2 to 1.2
# nanoseconds for each number, as if lines of memory went from one to the other; the rates of what
# threads share lie in between, as the lessons found both. `shared_copy` was set by hand, to the
# middle of 0.2 to 0.6, which are alike; without it, 83 of the 1,300 choices with two threads would
# take more than 1.5 times as long as the fastest lowering, with it 72.
ZEN4 = Rates(
    view=824.0,
    copy_call=2540.0,
    multiply_call=1740.0,
    sum_call=1840.0,
    mm_call=1290.0,
    linear_call=2530.0,
    fold_call=283.0,
    bmm_call=864.0,
    matmul_call=4210.0,
    copy_number=0.0894,
    copy_run=1.28,
    copy_plane=22.2,
    copy_jump=0.94,
    copy_strided=0.456,
    copy_far=0.0411,
    copy_farther=0.0297,
    copy_page=0.0529,
    copy_collision=3.0,
    copy_waiting=0.56,
    run_waiting=4.02,
    tlb_first=0.361,
    tlb_second=10.9,
    cold=0.0595,
    fresh=0.8,
    cold_multiply=0.00361,
    multiply_number=0.118,
    multiply_strided=0.499,
    multiply_run=2.46,
    sum_near=0.0304,
    sum_across=0.0506,
    sum_strided=0.974,
    sum_run=5.6,
    sum_plane=24.6,
    matrix=38.2,
    multiply_add=0.0141,
    ragged=0.32,
    few=0.77,
    few_dots=0.00881,
    few_dot=2.59,
    few_crossed=0.103,
    few_rows=0.004,
    shared_product=5630.0,
    shared_wide=0.919,
    shared_copy=0.4,
    shared_sum=0.114,
    summed_plain=0.204,
    summed_dot=0.0172,
    summed_apart=0.238,
    summed_crossed=1.73,
    left_near=0.00893,
    left_far=0.051,
    right_near=0.152,
    right_far=0.0961,
    result=0.0759,
    ragged_result=0.0329,
    added_row=4.85,
    cold_result=0.0183,
    cold_wide=0.00216,
    cold_single=0.129,
    cold_made=0.137,
    cold_row=4.36,
    cold_matrix=0.459,
    cold_operand=0.0428,
    skinny=0.00364,
    vector=0.066,
    vector_near=0.0814,
    vector_apart=0.1,
    vector_dot=0.674,
    tiny_matrix=1.35,
    tiny_result=1.4,
    tiny_near=0.309,
    tiny_rest=0.224,
    tiny_far=0.794,
    gathered=0.5,
    lone=1000.0,
)

# Zen 5: on a third shared server (AMD EPYC of the fifth generation, family 26, with 1 MiB of second
# cache; MKL multiplies with AVX2 again), whose memory is twice as fast as that of the fourth. First
# 3,200 single operations were timed with one thread; the price of one that was kept back is
# typically off by 1.08. From there the rates were fitted to three quarters of 4,000 contractions,
# 2,400 with one thread and 1,600 with two, 117,901 lowerings in all. Rates that AVX2 has at zero
# began where those of AVX-512 are, since a rate of nothing stays nothing. Three were then set by
# hand: `few_rows` to nearly twice what was found, since with two threads more of it was better;
# `cold_multiply` to nearly what products of 2 to 8 MiB show, and `fresh` to a third of what pages
# of fresh memory take, of which the lessons have few. On the last quarter the choice takes 1.069
# times as long as the fastest lowering with one thread, 1.085 with two; with the rates of AVX2
# 1.083 and 1.091. Of 1,400 contractions that nothing was learned from, 258 get other steps than by
# the rates of AVX2, which take 0.94 of the time with one thread and 0.97 with two. That was before
# prices knew of threads; what these share is carried over from AVX2, at half the rates or a third,
# as most others are, and was never held against a clock there.
ZEN5 = Rates(
    view=755.0,
    copy_call=2270.0,
    multiply_call=1130.0,
    sum_call=1880.0,
    mm_call=989.0,
    linear_call=2000.0,
    fold_call=211.0,
    bmm_call=837.0,
    matmul_call=3010.0,
    copy_number=0.054,
    copy_run=0.586,
    copy_plane=22.1,
    copy_jump=0.695,
    copy_strided=0.277,
    copy_far=0.0584,
    copy_farther=0.0199,
    copy_page=0.0942,
    copy_collision=1.46,
    copy_waiting=0.419,
    run_waiting=4.11,
    tlb_first=0.753,
    tlb_second=5.12,
    cold=0.000722,
    fresh=0.5,
    cold_multiply=0.04,
    multiply_number=0.0676,
    multiply_strided=0.318,
    multiply_run=2.98,
    sum_near=0.0286,
    sum_across=0.0515,
    sum_strided=0.692,
    sum_run=4.06,
    sum_plane=18.2,
    matrix=32.3,
    multiply_add=0.0128,
    ragged=0.25,
    few=0.466,
    few_dots=0.00417,
    few_dot=1.07,
    few_crossed=0.0485,
    few_rows=0.004,
    shared_product=2000.0,
    shared_wide=0.5,
    shared_copy=0.3,
    shared_sum=0.15,
    summed_plain=0.158,
    summed_dot=0.0114,
    summed_apart=0.126,
    summed_crossed=0.942,
    left_near=0.00687,
    left_far=0.0405,
    right_near=0.0876,
    right_far=0.0586,
    result=0.0382,
    ragged_result=0.00831,
    added_row=3.44,
    cold_result=0.00929,
    cold_wide=0.000989,
    cold_single=0.0172,
    cold_made=0.015,
    cold_row=2.13,
    cold_matrix=0.0681,
    cold_operand=0.0262,
    skinny=0.00738,
    vector=0.041,
    vector_near=0.0514,
    vector_apart=0.07,
    vector_dot=0.6,
    tiny_matrix=1.36,
    tiny_result=0.891,
    tiny_near=0.201,
    tiny_rest=0.162,
    tiny_far=0.506,
    gathered=0.4,
    lone=800.0,
)

__all__ = ["ZEN4", "ZEN5"]

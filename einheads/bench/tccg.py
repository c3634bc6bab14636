"""The 48 contractions of the TCCG benchmark, as data.

From Paul Springer and Paolo Bientinesi, "Design of a High-Performance GEMM-like Tensor-Tensor
Multiplication", 2018 (https://github.com/HPAC/tccg): tensor times matrix, coupled-cluster methods
of quantum chemistry. Each line gives the axes of the output and of both operands, and the sizes of
`a`, `b`, `c`, ... for double precision. The last index is the innermost one here, as in all of
PyTorch.
"""

from __future__ import annotations

import math

from .cases import Case

_TABLE = """
abc-bda-dc 312 312 24 312
abc-dca-bd 312 24 296 312
abcd-dbea-ec 72 72 24 72 72
abcd-deca-be 72 24 72 72 72
abcd-ebad-ce 72 72 24 72 72
abcde-efbad-cf 48 32 24 32 48 32
abcde-ecbfa-fd 48 32 32 24 48 48
abcde-efcad-bf 48 24 32 32 48 32
abcd-ea-ebcd 72 72 72 72 72
abcd-eb-aecd 72 72 72 72 72
abcd-ec-abed 72 72 72 72 72
ab-ac-cb 5136 5120 5136
ab-acd-dbc 312 296 296 312
ab-cad-dcb 312 296 312 312
abc-acd-db 312 296 296 312
abc-ad-bdc 312 312 296 296
abc-adc-bd 312 312 296 296
abc-adc-db 312 296 296 312
abc-adec-ebd 72 72 72 72 72
abcd-aebf-dfce 72 72 72 72 72 72
abcd-aebf-fdec 72 72 72 72 72 72
abcd-aecf-bfde 72 72 72 72 72 72
abcd-aecf-fbed 72 72 72 72 72 72
abcd-aedf-bfce 72 72 72 72 72 72
abcd-aedf-fbec 72 72 72 72 72 72
abcd-aefb-fdce 72 72 72 72 72 72
abcd-aefc-fbed 72 72 72 72 72 72
abcd-eafb-fdec 72 72 72 72 72 72
abcd-eafc-bfde 72 72 72 72 72 72
abcd-eafd-fbec 72 72 72 72 72 72
abcdef-dega-gfbc 24 16 16 24 16 16 24
abcdef-degb-gfac 24 16 16 24 16 16 24
abcdef-degc-gfab 24 16 16 24 16 16 24
abcdef-dfga-gebc 24 16 16 24 16 16 24
abcdef-dfgb-geac 24 16 16 24 16 16 24
abcdef-dfgc-geab 24 16 16 24 16 16 24
abcdef-efga-gdbc 24 16 16 16 24 16 24
abcdef-efgb-gdac 24 16 16 16 24 16 24
abcdef-efgc-gdab 24 16 16 16 24 16 24
abcdef-gdab-efgc 24 16 16 16 24 16 24
abcdef-gdac-efgb 24 16 16 16 24 16 24
abcdef-gdbc-efga 24 16 16 16 24 16 24
abcdef-geab-dfgc 24 16 16 24 16 16 24
abcdef-geac-dfgb 24 16 16 24 16 16 24
abcdef-gebc-dfga 24 16 16 24 16 16 24
abcdef-gfab-degc 24 16 16 24 16 16 24
abcdef-gfac-degb 24 16 16 24 16 16 24
abcdef-gfbc-dega 24 16 16 24 16 16 24
"""


def tccg(limit: float = 60e6) -> tuple[Case, ...]:
    """The cases, each scaled down evenly to at most so many multiply-adds.

    Example:
        >>> first = tccg()[0]
        >>> first.pattern, first.sizes
        ('b d a, d c -> a b c', {'a': 167, 'b': 167, 'c': 12, 'd': 167})
        >>> tccg(math.inf)[0].sizes["a"]
        312

    Args:
        limit: the most multiply-adds of a case; infinity for the full sizes.
    """
    return tuple(_case(line, limit) for line in _TABLE.strip().splitlines())


def _case(line: str, limit: float) -> Case:
    name, *numbers = line.split()
    full = dict(zip("abcdefg", map(int, numbers), strict=False))
    output, left, right = (" ".join(term) for term in name.split("-"))
    scale = min(1.0, (limit / math.prod(full.values())) ** (1 / len(full)))
    while True:
        sizes = {axis: max(1, int(size * scale)) for axis, size in full.items()}
        if math.prod(sizes.values()) <= limit:
            return Case(name, f"{left}, {right} -> {output}", sizes)
        scale *= 0.99

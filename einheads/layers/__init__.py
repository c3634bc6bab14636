"""Layers: a pattern, its sizes, and parameters in the axis order that the pattern writes."""

from .adapters import LoRA
from .attention import Attention, TalkingHeads
from .axes import AxisLinear, PatchEmbed, Scale
from .base import Einsum
from .blocks import MLPMixer, TransformerBlock
from .cache import KeyValueCache
from .einmix import EinMix
from .ensembles import BatchEnsemble, EnsembleLinear
from .experts import Experts, Routed, SoftMoE
from .factorized import LowRank
from .linear import FromHeads, GroupedLinear, HeadLinear, Linear, ToHeads
from .lists import accept_list
from .mixing import FeedForward, SwiGLU, TokenMixer
from .multilinear import Bilinear, HyperLinear, LowRankBilinear
from .pairs import Biaffine, OuterProductMean
from .rotary import Rotary
from .stacking import ensemble, stack
from .structured import BlockTensorTrain, Kronecker, Monarch
from .tensorized import CP, TensorRing, TensorTrain, Tucker

__all__ = [
    "CP",
    "Attention",
    "AxisLinear",
    "BatchEnsemble",
    "Biaffine",
    "Bilinear",
    "BlockTensorTrain",
    "EinMix",
    "Einsum",
    "EnsembleLinear",
    "Experts",
    "FeedForward",
    "FromHeads",
    "GroupedLinear",
    "HeadLinear",
    "HyperLinear",
    "KeyValueCache",
    "Kronecker",
    "Linear",
    "LoRA",
    "LowRank",
    "LowRankBilinear",
    "MLPMixer",
    "Monarch",
    "OuterProductMean",
    "PatchEmbed",
    "Rotary",
    "Routed",
    "Scale",
    "SoftMoE",
    "SwiGLU",
    "TalkingHeads",
    "TensorRing",
    "TensorTrain",
    "ToHeads",
    "TokenMixer",
    "TransformerBlock",
    "Tucker",
    "accept_list",
    "ensemble",
    "stack",
]

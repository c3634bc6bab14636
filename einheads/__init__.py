"""Declare a layer by its einsum; get the batched matmul an expert would have written.

Errors, `explain` and `source` work without PyTorch, so they are imported at once; whatever needs
PyTorch is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from .errors import EinheadsError, PatternError, SizeError

# Two functions have the names of modules. Importing a module for the first time sets the attribute
# of its name here, so both modules have to be loaded before the functions take these names; later
# imports of a loaded module leave the attribute alone. `explain` loads `source`.
from .explain import explain
from .explain.standalone import source
from .explain.story import Explanation

if TYPE_CHECKING:
    from .convert import (
        from_bilinear,
        from_conv,
        from_einmix,
        from_linears,
        from_multihead_attention,
        to_linears,
    )
    from .folding import Folded, fold
    from .functional import einsum
    from .layers import (
        CP,
        Attention,
        AxisLinear,
        BatchEnsemble,
        Biaffine,
        Bilinear,
        BlockTensorTrain,
        EinMix,
        Einsum,
        EnsembleLinear,
        Experts,
        FeedForward,
        FromHeads,
        GroupedLinear,
        HeadLinear,
        HyperLinear,
        KeyValueCache,
        Kronecker,
        Linear,
        LoRA,
        LowRank,
        LowRankBilinear,
        MLPMixer,
        Monarch,
        OuterProductMean,
        PatchEmbed,
        Rotary,
        Routed,
        Scale,
        SoftMoE,
        SwiGLU,
        TalkingHeads,
        TensorRing,
        TensorTrain,
        ToHeads,
        TokenMixer,
        TransformerBlock,
        Tucker,
        accept_list,
        ensemble,
        stack,
    )
    from .program import cache_clear, cache_info
    from .roles import ParameterRoles, param_groups, parameter_roles
    from .tuned import load_tuned, save_tuned
    from .tuning import Tuned, tune

__version__ = "0.1.0"

__all__ = [
    "CP",
    "Attention",
    "AxisLinear",
    "BatchEnsemble",
    "Biaffine",
    "Bilinear",
    "BlockTensorTrain",
    "EinMix",
    "EinheadsError",
    "Einsum",
    "EnsembleLinear",
    "Experts",
    "Explanation",
    "FeedForward",
    "Folded",
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
    "ParameterRoles",
    "PatchEmbed",
    "PatternError",
    "Rotary",
    "Routed",
    "Scale",
    "SizeError",
    "SoftMoE",
    "SwiGLU",
    "TalkingHeads",
    "TensorRing",
    "TensorTrain",
    "ToHeads",
    "TokenMixer",
    "TransformerBlock",
    "Tucker",
    "Tuned",
    "__version__",
    "accept_list",
    "cache_clear",
    "cache_info",
    "einsum",
    "ensemble",
    "explain",
    "fold",
    "from_bilinear",
    "from_conv",
    "from_einmix",
    "from_linears",
    "from_multihead_attention",
    "load_tuned",
    "param_groups",
    "parameter_roles",
    "save_tuned",
    "source",
    "stack",
    "to_linears",
    "tune",
]

# The names that need PyTorch, and the module of each.
_LAZY = {
    "CP": "layers",
    "Attention": "layers",
    "AxisLinear": "layers",
    "BatchEnsemble": "layers",
    "Biaffine": "layers",
    "Bilinear": "layers",
    "BlockTensorTrain": "layers",
    "EinMix": "layers",
    "Einsum": "layers",
    "EnsembleLinear": "layers",
    "Experts": "layers",
    "FeedForward": "layers",
    "Folded": "folding",
    "FromHeads": "layers",
    "GroupedLinear": "layers",
    "HeadLinear": "layers",
    "HyperLinear": "layers",
    "KeyValueCache": "layers",
    "Kronecker": "layers",
    "Linear": "layers",
    "LoRA": "layers",
    "LowRank": "layers",
    "LowRankBilinear": "layers",
    "MLPMixer": "layers",
    "Monarch": "layers",
    "OuterProductMean": "layers",
    "ParameterRoles": "roles",
    "PatchEmbed": "layers",
    "Rotary": "layers",
    "Routed": "layers",
    "Scale": "layers",
    "SoftMoE": "layers",
    "SwiGLU": "layers",
    "TalkingHeads": "layers",
    "TensorRing": "layers",
    "TensorTrain": "layers",
    "ToHeads": "layers",
    "TokenMixer": "layers",
    "TransformerBlock": "layers",
    "Tucker": "layers",
    "Tuned": "tuning",
    "accept_list": "layers",
    "cache_clear": "program",
    "cache_info": "program",
    "einsum": "functional",
    "ensemble": "layers",
    "fold": "folding",
    "from_bilinear": "convert",
    "from_conv": "convert",
    "from_einmix": "convert",
    "from_linears": "convert",
    "from_multihead_attention": "convert",
    "load_tuned": "tuned",
    "param_groups": "roles",
    "parameter_roles": "roles",
    "save_tuned": "tuned",
    "stack": "layers",
    "to_linears": "convert",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'einheads' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

"""Roles as data: which parameters are matrices, which decay, and updates that leave heads apart."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import einheads
from einheads import (
    Attention,
    Einsum,
    HeadLinear,
    Linear,
    PatchEmbed,
    Scale,
    ToHeads,
    TransformerBlock,
    param_groups,
    parameter_roles,
)

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def polar(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, or stack of them."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


class TestParameterRoles:
    """Every parameter of a model, by name."""

    def test_kinds(self) -> None:
        """Layers of einheads by their patterns, those of torch by what they are."""
        model = nn.ModuleDict(
            {
                "heads": HeadLinear(h=2, i=3, o=5),
                "scale": Scale("h d", h=2, d=5, bias=True),
                "low_rank": Einsum("... i, i r, r o -> ... o", i=3, r=2, o=5),
                "linear": nn.Linear(3, 5),
                "convolution": nn.Conv2d(4, 6, (2, 3), groups=2),
                "sequence": nn.Conv1d(4, 6, 2),
                "bilinear": nn.Bilinear(2, 3, 5),
                "table": nn.Embedding(7, 5),
                "norm": nn.LayerNorm((3, 5)),
                "root": nn.RMSNorm(5),
                "attention": nn.MultiheadAttention(6, 2, kdim=3, vdim=5),
                "other": nn.GRUCell(3, 5),
            }
        )
        kinds = {name: roles.kind for name, roles in parameter_roles(model).items()}
        assert list(kinds) == [name for name, _ in model.named_parameters()]
        matrices = {
            *("heads.weight", "low_rank.weight_1", "low_rank.weight_2", "linear.weight"),
            *("convolution.weight", "sequence.weight", "bilinear.weight"),
            *(f"attention.{name}_proj_weight" for name in "qkv"),
            "attention.out_proj.weight",
        }
        assert {name for name, kind in kinds.items() if kind == "matrix"} == matrices
        assert kinds["table.weight"] == "table"
        assert {name for name, kind in kinds.items() if kind == "other"} == {
            "other.weight_ih",
            "other.weight_hh",
        }
        vectors = {name for name, kind in kinds.items() if kind == "vector"}
        assert vectors == {
            *(f"{name}.bias" for name in ("heads", "scale", "linear", "convolution", "sequence")),
            *("scale.weight", "bilinear.bias", "norm.weight", "norm.bias", "root.weight"),
            *("attention.in_proj_bias", "attention.out_proj.bias"),
            *("other.bias_ih", "other.bias_hh"),
        }

    @pytest.mark.parametrize(
        ("layer", "fan_in", "fan_out", "shape"),
        [
            (Linear(3, 5), 3, 5, (1, 5, 3)),
            (nn.Linear(3, 5), 3, 5, (1, 5, 3)),
            (HeadLinear(h=2, i=3, o=5), 3, 5, (2, 5, 3)),
            (ToHeads(i=3, h=2, o=5), 3, 10, (1, 10, 3)),
            (PatchEmbed(c=3, p=2, q=5, o=7), 30, 7, (1, 7, 30)),
            (nn.Conv2d(3, 7, (2, 5)), 30, 7, (1, 7, 30)),
            (nn.Conv1d(6, 10, 5, groups=2), 15, 5, (2, 5, 15)),
            (nn.Conv3d(2, 3, (2, 1, 5)), 20, 3, (1, 3, 20)),
            (nn.Bilinear(2, 3, 5), 6, 5, (1, 5, 6)),
            (Einsum("... h i, i h o -> ... h o", h=2, i=3, o=5), 3, 5, (2, 5, 3)),
            (Einsum("b i, (g o) i -> b g o", g=2, i=3, o=5), 3, 10, (1, 10, 3)),
        ],
        ids=str,
    )
    def test_fans_and_stacks(
        self, layer: nn.Module, fan_in: int, fan_out: int, shape: tuple[int, ...]
    ) -> None:
        """Matrices, batch out in, and back again; as `layer.matrices` gives them."""
        roles = parameter_roles(layer)["weight"]
        assert (roles.fan_in, roles.fan_out) == (fan_in, fan_out)
        weight = layer.get_parameter("weight")
        matrices = roles.stack(weight)
        assert tuple(matrices.shape) == shape
        assert torch.equal(roles.unstack(matrices), weight)
        if isinstance(layer, Einsum):
            assert torch.equal(matrices, layer.matrices())
            assert roles.roles == layer.roles["weight"]
        elif not isinstance(layer, nn.Bilinear):
            assert torch.equal(matrices, weight.reshape(shape))

    def test_matrices_per_axis(self) -> None:
        """Any axis may get a matrix each: the heads of a query, or of an output."""
        layer = Attention(i=6, h=2, d=3, o=5)
        roles = parameter_roles(layer)
        query = roles["query.weight"].stack(layer.query.weight, per="h")
        assert torch.equal(query, layer.query.weight)
        output = roles["output.weight"].stack(layer.output.weight, per="h")
        assert torch.equal(output, layer.output.weight.transpose(0, 1))
        again = roles["output.weight"].unstack(output, per="h")
        assert torch.equal(again, layer.output.weight)

    def test_shared_parameters_are_named_once(self) -> None:
        """As `named_parameters` does, by the first name."""
        first, second = Linear(3, 5), Linear(3, 5)
        second.weight = first.weight
        roles = parameter_roles(nn.Sequential(first, second))
        assert list(roles) == ["0.weight", "0.bias", "1.bias"]

    def test_refusals(self) -> None:
        """No module, no matrix, no such axis."""
        with pytest.raises(TypeError, match="roles are those of a module, not of"):
            parameter_roles([Linear(3, 5)])  # type: ignore[arg-type]
        layer = HeadLinear(h=2, i=3, o=5)
        roles = parameter_roles(layer)
        with pytest.raises(einheads.EinheadsError, match="kind 'vector' is no stack of matrices"):
            roles["bias"].stack(layer.bias)
        with pytest.raises(einheads.EinheadsError, match="names 'z', which is no axis"):
            roles["weight"].stack(layer.weight, per="z")


class TestParamGroups:
    """Groups as every optimizer takes them."""

    def test_every_parameter_once(self) -> None:
        """All that need a gradient, named, and no other."""
        model = TransformerBlock(i=12, h=3)
        model.network.down.weight.requires_grad_(requires_grad=False)
        groups = param_groups(model)
        parameters = dict(model.named_parameters())
        names = [name for group in groups for name in group["names"]]
        assert sorted(names) == sorted(set(parameters) - {"network.down.weight"})
        for group in groups:
            pairs = zip(group["names"], group["params"], strict=True)
            assert all(parameters[name] is value for name, value in pairs)
            assert "lr" not in group
        assert [(group["kind"], group["fan_in"]) for group in groups] == [
            ("matrix", 12),
            ("vector", 0),
        ]

    @pytest.mark.parametrize("by", ["group", "optimizer"])
    def test_no_decay_of_biases_and_scales(self, by: str) -> None:
        """An optimizer that only decays, by its own default too, leaves them as they are."""
        model = nn.Sequential(
            HeadLinear(h=2, i=3, o=5), Scale("h d", h=2, d=5), nn.LayerNorm(5), nn.Embedding(3, 5)
        )
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(1)
        groups = param_groups(model, lr=0.5, weight_decay=0.1 if by == "group" else None)
        optimizer = torch.optim.SGD(groups, weight_decay=0.1 if by == "optimizer" else 0.0)
        for value in model.parameters():
            value.grad = torch.zeros_like(value)
        optimizer.step()
        left = {name: float(value.detach().mean()) for name, value in model.named_parameters()}
        decayed = {"0.weight", "3.weight"}
        assert {name for name, value in left.items() if value == pytest.approx(0.95)} == decayed
        assert {name for name, value in left.items() if value == 1} == set(left) - decayed

    @pytest.mark.parametrize("base_width", [12, 24, 48])
    def test_learning_rates_follow_the_fan_in(self, base_width: int) -> None:
        """Only what grows with the width is scaled, each matrix by its own fan-in."""

        def make(width: int, **options: Any) -> nn.Module:
            return nn.Sequential(
                Linear(5, width, **options), TransformerBlock(i=width, h=3, **options)
            )

        groups = param_groups(make(48), lr=0.1, base=make(base_width, device="meta"))
        rates = {name: group["lr"] for group in groups for name in group["names"]}
        for name, rate in rates.items():
            grows = name.endswith("weight") and not name.startswith("0.") and "norm" not in name
            assert rate == pytest.approx(0.1 * (base_width / 48 if grows else 1)), name
        assert {group["lr_scale"] for group in groups} == {1.0, base_width / 48}

    def test_adam_moves_wide_and_narrow_alike(self) -> None:
        """After a step, the outputs of a wide layer move as much as those of a narrow one."""
        moves = {}
        for width in (64, 1024):
            torch.manual_seed(0)
            layer = Linear(width, 8, bias=False, **DOUBLE)
            x = torch.randn(1, width, **DOUBLE)
            groups = param_groups(layer, lr=0.1, base=Linear(64, 8, bias=False, device="meta"))
            optimizer = torch.optim.Adam(groups)
            before = layer(x)
            before.sum().backward()
            optimizer.step()
            moves[width] = float((layer(x) - before).detach().abs().mean())
        assert moves[1024] == pytest.approx(moves[64], rel=0.2)

    def test_state_dict_of_the_optimizer_is_plain(self, tmp_path: Any) -> None:
        """It is stored and loaded without any class of ours."""
        model = TransformerBlock(i=12, h=3)
        optimizer = torch.optim.AdamW(param_groups(model, lr=1e-3, weight_decay=0.1))
        model(torch.randn(2, 5, 12)).sum().backward()
        optimizer.step()
        torch.save(optimizer.state_dict(), tmp_path / "state")
        again = torch.optim.AdamW(param_groups(model, lr=1e-2))
        again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        assert [group["lr"] for group in again.param_groups] == [1e-3, 1e-3, 1e-3]

    @pytest.mark.parametrize(
        ("base", "words"),
        [
            (Linear(3, 5, bias=False), "'bias' is not in both"),
            (nn.Sequential(Linear(3, 5)), "'0.bias', '0.weight' and 'bias' are not in both"),
        ],
        ids=["no bias", "other names"],
    )
    def test_another_model_as_base(self, base: nn.Module, words: str) -> None:
        """The message names what differs."""
        with pytest.raises(einheads.EinheadsError, match=words):
            param_groups(Linear(3, 5), base=base)


class TestOrthogonalUpdates:
    """Muon per head: heads stay independent."""

    def updates(self, layer: Einsum, x: Tensor, per: str = "") -> Tensor:
        """The gradient of a loss, each matrix made orthogonal."""
        (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), layer.weight)
        roles = parameter_roles(layer)["weight"]
        return roles.unstack(polar(roles.stack(gradient, per)), per)

    @pytest.mark.parametrize(
        "pattern",
        ["... h i, h o i -> ... h o", "... h i, i h o -> ... h o", "... h i, o i h -> ... h o"],
    )
    def test_a_head_sees_only_itself(self, pattern: str) -> None:
        """Another input of one head changes the update of that head alone, in any layout."""
        layer = Einsum(pattern, h=3, i=7, o=5, **DOUBLE)
        place = parameter_roles(layer)["weight"].items.split().index("h")
        x = torch.randn(11, 3, 7, **DOUBLE)
        other = x.clone()
        other[:, 1] = torch.randn(11, 7, **DOUBLE)
        before, after = (self.updates(layer, z).movedim(place, 0) for z in (x, other))
        torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
        assert (before[1] - after[1]).abs().max() > 0.1
        # The same with the heads in one tall matrix, which is what an optimizer sees that only
        # knows shapes: there, the heads do not stay apart.
        (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), layer.weight)
        (changed,) = torch.autograd.grad(layer(other).pow(3).sum(), layer.weight)
        tall, taller = (polar(g.movedim(place, 0).flatten(0, 1)) for g in (gradient, changed))
        assert (tall - taller).unflatten(0, (3, -1))[0].abs().max() > 1e-3

    def test_trains_as_separate_linears(self) -> None:
        """Five steps of a per-head layer are five steps of each nn.Linear by itself."""
        layer = HeadLinear(h=3, i=7, o=5, **DOUBLE)
        linears = [nn.Linear(7, 5, **DOUBLE) for _ in range(3)]
        for h, linear in enumerate(linears):
            linear.load_state_dict({"weight": layer.weight[h], "bias": layer.bias[h]})
        x = torch.randn(11, 3, 7, **DOUBLE)
        for _ in range(5):
            update = self.updates(layer, x)
            with torch.no_grad():
                layer.weight -= 0.1 * update
            for h, linear in enumerate(linears):
                (gradient,) = torch.autograd.grad(linear(x[:, h]).pow(3).sum(), linear.weight)
                with torch.no_grad():
                    linear.weight -= 0.1 * polar(gradient)
        for h, linear in enumerate(linears):
            torch.testing.assert_close(layer.weight[h], linear.weight)

    def test_step_by_groups(self) -> None:
        """With the groups of a model, matrices step orthogonally and the rest by its gradient."""
        x = torch.randn(11, 3, 7, **DOUBLE)
        other = x.clone()
        other[:, 1] = torch.randn(11, 7, **DOUBLE)
        after = []
        for inputs in (x, other):
            torch.manual_seed(0)
            model = nn.Sequential(HeadLinear(h=3, i=7, o=5, **DOUBLE), Scale("d", d=5, **DOUBLE))
            model(inputs).pow(3).sum().backward()
            every = parameter_roles(model)
            for group in param_groups(model, lr=0.1):
                for name, value in zip(group["names"], group["params"], strict=True):
                    step = value.grad
                    if group["kind"] == "matrix":
                        step = every[name].unstack(polar(every[name].stack(step)))
                    value.data.sub_(step, alpha=group["lr"])
            after.append(model)
        before = HeadLinear(h=3, i=7, o=5, **DOUBLE)
        torch.manual_seed(0)
        before.reset_parameters()
        one, two = (model[0].weight for model in after)
        torch.testing.assert_close(one[[0, 2]], two[[0, 2]])
        assert (one[1] - two[1]).abs().max() > 0.01
        for step in (one - before.weight).div(-0.1):
            torch.testing.assert_close(step @ step.T, torch.eye(5, **DOUBLE))

    def test_heads_of_a_shared_input(self) -> None:
        """With a matrix for each head, those of a query stay apart as well."""
        layer = ToHeads(i=7, h=3, o=5, **DOUBLE)
        update = self.updates(layer, torch.randn(11, 7, **DOUBLE), per="h")
        for head in update:
            torch.testing.assert_close(head @ head.T, torch.eye(5, **DOUBLE))

"""How a model is optimised: the steps of a batch, what learns in each, and at what rate.

A model may define this itself (``Plan``, from its static ``plan``); only this module reads plans.
Whatever the number of stages there is one optimiser: it keeps its state parameter by parameter and
passes over those without a gradient, so stages that train different parameters are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as adam_update

from ..base.errors import InputError
from ..losses import Criterion
from ..models.interface import Model, Plan


@dataclass(frozen=True)
class Step:
    """A stage of the current epoch, with its loss and the parameters that learn."""

    criterion: Criterion
    parameters: tuple[nn.Parameter, ...]
    frozen: tuple[nn.Parameter, ...]


class Optimization:
    """The optimiser of a run with its schedule.

    Args:
        model: its parameters that require a gradient are the ones that may learn.
        criterion: the loss with the weights of the experiment; stages multiply them.
        plan: of the model; the default is one step with all terms and parameters.
        optimizer: ``adam``, ``adamw``, ``bert_adam`` or ``sgd``.
        lr: base learning rate.
        betas, weight_decay: of the optimiser; ``bert_adam`` spares biases and normalisations.
        momentum: of ``sgd``, which has no betas.
        decay, decay_every: the rate is multiplied by ``decay`` every so many epochs, or instead …
        milestones: … after each of these numbers of epochs.
        fused: ``adam`` and ``adamw`` in one pass over the weights: the same up to rounding, and
            twenty times as fast on a processor.
        warmup: share of the steps in which ``bert_adam`` warms up, before a linear decay to zero.
        total_steps: of the whole run, for that schedule.
        warmup_steps: if any, the rate follows ``inverse_root`` step by step, and not the epochs …
        steps_per_epoch: … of which each has so many.
    """

    def __init__(
        self,
        model: Model,
        criterion: Criterion,
        plan: Plan | None = None,
        *,
        optimizer: str = "adam",
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decay: float = 1.0,
        decay_every: int = 20,
        milestones: Sequence[int] = (),
        fused: bool = True,
        warmup: float = 0.0,
        total_steps: int = 1,
        warmup_steps: int = 0,
        steps_per_epoch: int = 1,
    ) -> None:
        self.warmup_steps, self.steps_per_epoch = warmup_steps, steps_per_epoch
        self.criterion = criterion
        self.model, self.plan = model, plan or Plan()
        self.base_lr, self.decay, self.decay_every = lr, decay, decay_every
        self.milestones = tuple(milestones)
        self.learnable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        groups = self._groups(spare=optimizer == "bert_adam")
        self.optimizer: torch.optim.Optimizer
        if optimizer == "sgd":
            self.optimizer = MomentumSGD(groups, momentum=momentum, **common)
        elif optimizer == "bert_adam":
            common |= {"betas": tuple(betas), "warmup": warmup, "total_steps": total_steps}
            self.optimizer = BertAdam(groups, **common)
        else:
            kind = {"adam": Adam, "adamw": AdamW}[optimizer]
            self.optimizer = cast(Callable[..., torch.optim.Optimizer], kind)(
                groups, betas=tuple(betas), fused=fused, **common
            )
        self.set_epoch(0)

    def _groups(self, *, spare: bool) -> list[dict[str, Any]]:
        """Parameters that share a rate and a decay, in the order of the model."""
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in self.learnable.items():
            rate = next((r for p, r in self.plan.rates.items() if name.startswith(p)), 1.0)
            spared = spare and parameter.dim() <= 1
            group = groups.setdefault((rate, spared), {"params": [], "rate": rate})
            group["params"].append(parameter)
            if spared:
                group["weight_decay"] = 0.0
        return list(groups.values())

    def set_epoch(self, epoch: int) -> None:
        """Learning rates, stages and the model's settings of an epoch, counted from 0."""
        times = epoch // self.decay_every
        if self.milestones:
            times = sum(epoch >= milestone for milestone in self.milestones)
        self._set_rate(self.base_lr * self.decay**times)
        self.first_step = epoch * self.steps_per_epoch
        self.set_step(0)
        for name, value in self.plan.settings(epoch).items():
            self.model.get_buffer(name).fill_(value)
        self.steps: list[Step] = []
        for stage in self.plan.stages(epoch):
            criterion = self.criterion.scaled(stage.factors)
            if criterion is None:  # an ablation may leave a stage without a term
                continue
            frozen = {n for n in self.learnable if n.startswith(stage.frozen)}
            learning = (p for n, p in self.learnable.items() if n not in frozen)
            self.steps.append(
                Step(criterion, tuple(learning), tuple(self.learnable[n] for n in frozen))
            )

    def set_step(self, step: int) -> None:
        """The learning rate of a step of the epoch, counted from 0, where it changes with them."""
        if self.warmup_steps:
            self._set_rate(inverse_root(self.first_step + step, self.base_lr, self.warmup_steps))

    def _set_rate(self, lr: float) -> None:
        self.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]

    @contextmanager
    def learning(self, step: Step) -> Iterator[None]:
        """A context in which only the step's parameters require gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in step.frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in step.frozen:
                parameter.requires_grad_(True)

    def unreached(self) -> list[str]:
        """Parameters that are to learn in this epoch and that no step so far has reached."""
        learning = {id(p) for step in self.steps for p in step.parameters}
        return [
            name
            for name, parameter in self.learnable.items()
            if id(parameter) in learning and parameter not in self.optimizer.state
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the optimiser's state (its averages); its options stay those of this run.

        Raises:
            InputError: it is of other weights or of another optimiser; nothing is loaded.
        """
        self._require_fits(state)
        current_options = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(dict(state))
        for group, options in zip(self.optimizer.param_groups, current_options, strict=True):
            group.update(options)

    def _require_fits(self, state: Mapping[str, Any]) -> None:
        groups = [group["params"] for group in self.optimizer.param_groups]
        theirs = [group.get("params") for group in state["param_groups"]]
        numbers = [number for group in theirs if group is not None for number in group]
        fits = [len(group) for group in groups] == [len(group or ()) for group in theirs]
        if not fits or len(set(numbers)) != len(numbers):
            raise InputError(
                f"the checkpoint's optimizer has {len(numbers)} weights in {len(theirs)} groups; "
                f"expected {sum(map(len, groups))} in {len(groups)}"
            )
        weights = dict(zip(numbers, (weight for group in groups for weight in group), strict=True))
        expected = _KEPT[type(self.optimizer)]
        for number, kept in state["state"].items():
            if number not in weights or kept.keys() != expected:
                raise InputError(
                    f"the checkpoint's optimizer keeps {', '.join(kept)[:80]} of weight {number}; "
                    f"expected {', '.join(sorted(expected))} of {len(weights)} weights"
                )
            shape = tuple(weights[number].shape)
            for name, value in kept.items():
                found = tuple(value.shape) if isinstance(value, Tensor) else ()
                if found != (() if name == "step" else shape):
                    raise InputError(
                        f"the checkpoint's optimizer keeps {name} of weight {number} in the shape "
                        f"{found}; expected {() if name == 'step' else shape}"
                    )


def _never_compiled(*functions: Any) -> None:
    """Torch keeps its compiler away from these functions by asking it, at their first call, for
    such a function; to import the compiler takes a third of the time to the first step. Nothing
    here compiles an optimiser, so that each of them can be its own. Where a release of Torch has
    other names, it imports the compiler, and that is all."""
    for function in functions:
        plain = getattr(function, "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain


_never_compiled(
    torch.optim.Optimizer.add_param_group,
    torch.optim.Optimizer.zero_grad,
    torch.optim.Optimizer.state_dict,
    torch.optim.Optimizer.load_state_dict,
    adam_update,
)


class _PlainStep(torch.optim.Optimizer):
    """A step that does not import the compiler to leave it alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        guarded = super().step
        plain = getattr(guarded, "__wrapped__", None)
        return guarded(closure) if plain is None else plain(self, closure)


class Adam(_PlainStep, torch.optim.Adam):
    """Torch's."""


class AdamW(_PlainStep, torch.optim.AdamW):
    """Torch's."""


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with decoupled weight decay and a schedule of its own.

    The gradient of each tensor is scaled down to ``max_norm`` by itself, and each tensor counts its
    own steps: one that is first reached late warms up late.

    Args:
        params: parameters or groups.
        lr: the highest rate.
        betas, eps: of the moments.
        weight_decay: times the rate.
        warmup: share of ``total_steps`` with a rate that climbs linearly from 0; then it
            falls linearly to 0.
        max_norm: of each tensor's gradient.

    Source: the optimiser of the first BERT release, as DCIML (after GMMFormer and TVR) uses it.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        warmup: float = 0.01,
        total_steps: int = 1,
        max_norm: float = 1.0,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "total_steps": total_steps,
            "max_norm": max_norm,
        }
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                gradient = _shortened(parameter.grad, group["max_norm"])
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                update = state["mean"] / (state["square"].sqrt() + group["eps"])
                update += group["weight_decay"] * parameter
                share = warmup_linear(state["step"] / group["total_steps"], group["warmup"])
                parameter.sub_(update, alpha=group["lr"] * share)
                state["step"] += 1


class MomentumSGD(torch.optim.Optimizer):
    """Gradient descent with momentum, in which a step taken is never scaled again.

    The velocity is v ← μ v + lr · g, and a weight moves by -v. In ``torch.optim.SGD`` the rate
    multiplies the velocity instead: the same while the rate stays, but where it falls to a tenth,
    all that has gathered in the velocity falls with it at once.

    Args:
        params: parameters or groups.
        lr: the rate.
        momentum: μ.
        weight_decay: so much of a weight is added to its gradient.

    Source: Caffe's solver, with which MCN was trained.
    """

    def __init__(
        self, params: Any, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state["velocity"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                parameter.sub_(state["velocity"])


# What an optimiser keeps of each weight: averages, and the number of its steps.
_KEPT: dict[type, frozenset[str]] = {
    Adam: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    BertAdam: frozenset({"step", "mean", "square"}),
    MomentumSGD: frozenset({"velocity"}),
}


def warmup_linear(progress: float, warmup: float) -> float:
    """Factor on the learning rate: up to 1 within ``warmup``, then down to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return max((1 - progress) / (1 - warmup), 0.0)


def inverse_root(step: int, lr: float, warmup_steps: int) -> float:
    """The learning rate of a step, from 0: up from 1e-7 to ``lr``, then down with the root.

    Source: fairseq, as CNM, CPL, PPS and SCN use it.
    """
    if step < warmup_steps:
        return 1e-7 + step * (lr - 1e-7) / warmup_steps
    return lr * (warmup_steps / step) ** 0.5


def _shortened(gradient: Tensor, max_norm: float) -> Tensor:
    return gradient * (max_norm / (gradient.norm() + 1e-6)).clamp(max=1)

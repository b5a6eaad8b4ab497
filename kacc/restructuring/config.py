"""What can be done to a model's structure: one config for each way, self-checking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError

# Activations whose exponentials take a table or an operator of their own on devices,
# and what is made of comparisons and products in their place.
CHEAPER: dict[str, str] = {
    "silu": "hard_silu",
    "mish": "hard_silu",
    "gelu": "relu6",
    "sigmoid": "hard_sigmoid",
    "tanh": "hard_tanh",
    "softsign": "hard_tanh",
    "softplus": "relu",
    "squareplus": "relu",
    "elu": "relu",
    "selu": "relu",
    "celu": "relu",
}


@dataclass(frozen=True)
class SeparableConvolutions:
    """Convolutions larger than 1x1 as a depthwise one and a 1x1 one.

    For each input channel the kernel's taps x outputs are a matrix; its best
    approximation by `depth_multiplier` products of a column of taps and a row of
    outputs is its truncated singular value decomposition. With calibration the errors
    of the outputs are minimized instead, by alternating least squares.

    Args:
        depth_multiplier: depthwise channels for each input channel. As many as there
            are taps (or outputs, if they are fewer) keep everything.
        energy: the share of the energy of weights, or with calibration of outputs, to
            keep; layers get the least multiplier from `depth_multiplier` on that does.
        only_if_smaller: whether layers that would not cost fewer MACs stay as they are.
        as_one_layer: whether a SeparableConv2D (or 1D) is made rather than two layers.

    Raises:
        UsageError: for a wrong value.

    Example:
        >>> SeparableConvolutions(energy=0.9).depth_multiplier
        1
    """

    depth_multiplier: int = 1
    energy: float | None = None
    only_if_smaller: bool = True
    as_one_layer: bool = False

    def __post_init__(self) -> None:
        whole("depth_multiplier", self.depth_multiplier, 1)
        if self.energy is not None and not _is_share(self.energy):
            raise UsageError(
                "`energy` is the share to keep, above 0 and at most 1",
                received=self.energy,
            )
        _require_flags(self, "only_if_smaller", "as_one_layer")


@dataclass(frozen=True)
class CheaperActivations:
    """Activations swapped for cheaper ones, but those of the model's outputs.

    In layers that end in an activation, in Activation and ELU layers, and operators of
    `keras.activations` and `keras.ops`. Recurrent layers and attention keep theirs.

    Args:
        table: name of an activation -> name of that in its place; what it holds is
            added to the default one, `kacc.restructuring.CHEAPER`, and an activation
            that is mapped to itself stays.

    Raises:
        UsageError: for a name that Keras does not know.

    Example:
        >>> CheaperActivations({"swish": "relu"}).swaps["silu"]
        'relu'
    """

    table: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.table, Mapping):
            raise UsageError(
                "`table` maps names of activations to names", received=self.table
            )
        for name in (*self.table.keys(), *self.table.values()):
            _canonical(name)

    @property
    def swaps(self) -> dict[str, str]:
        """Keras's own names of the activations that are swapped -> of the others."""
        own = {_canonical(old): _canonical(new) for old, new in self.table.items()}
        return {old: new for old, new in (CHEAPER | own).items() if old != new}


@dataclass(frozen=True)
class RoundChannels:
    """Numbers of channels rounded up to a multiple, and the outputs stay equal.

    The layers behind give the added channels weights of zero. The channels themselves
    are copies of one before them, with smaller weights, so that training can use them
    and the ranges of activations stay what they are. Rounding down removes channels:
    that is `kacc.prune_channels(model, ..., round_to=8)`.

    Args:
        to: the multiple.

    Raises:
        UsageError: unless `to` is a whole number from 1.

    Example:
        >>> RoundChannels(16).to
        16
    """

    to: int = 8

    def __post_init__(self) -> None:
        whole("to", self.to, 1)


@dataclass(frozen=True)
class Width:
    """The same architecture with a share of the channels everywhere.

    As the width multiplier of MobileNets (Howard et al. 2017, arXiv:1704.04861): each
    number of channels is multiplied and rounded to a multiple, but not below 0.9 of
    what was asked for. Inputs and outputs of the model keep theirs.

    Args:
        multiplier: above 0; above 1 makes the model wider.
        round_to: layers get multiples of it.
        weights: "fresh" initializes all weights anew, for training from the start (the
            statistics of a keras.layers.Normalization stay); "leading" keeps those of
            the first channels, and added channels are as those of `RoundChannels`. To
            keep the channels that matter most use `kacc.prune_channels`.

    Raises:
        UsageError: for a wrong value.

    Example:
        >>> Width(0.5).round_to
        8
    """

    multiplier: float
    round_to: int = 8
    weights: str = "fresh"

    def __post_init__(self) -> None:
        if not is_number(self.multiplier) or not self.multiplier > 0:
            raise UsageError(
                "`multiplier` must be a number above 0", received=self.multiplier
            )
        whole("round_to", self.round_to, 1)
        if self.weights not in ("fresh", "leading"):
            raise UsageError(
                "`weights` must be 'fresh' or 'leading'", received=self.weights
            )


@dataclass(frozen=True)
class GlobalPoolingHead:
    """Flatten and Dense become global average pooling and a smaller Dense.

    The new kernel is the sum of the old one's over the positions: for maps that are
    constant over them the outputs are equal. With calibration it is fitted to the
    outputs by least squares, drawn to that sum.

    Example:
        >>> GlobalPoolingHead()
        GlobalPoolingHead()
    """


@dataclass(frozen=True)
class FoldNormalization:
    """Batch normalizations become part of the layer before or behind them.

    At inference one is a factor and an offset for each channel (Jacob et al. 2018,
    arXiv:1712.05877, section 3.2), so that outputs stay equal. In front of a layer that
    pads with zeros it stays.

    Example:
        >>> FoldNormalization()
        FoldNormalization()
    """


@dataclass(frozen=True)
class InsertBatchNormalization:
    """A batch normalization behind each convolution or Dense that has none.

    It stands before the activation, takes over the bias, and is the identity: with the
    statistics of the calibration data, or without any with a mean of zero and a
    variance of one. Outputs at inference stay equal. Layers that make the model's
    outputs get none.

    Args:
        momentum: of the moving statistics in later training.
        epsilon: added to variances.

    Raises:
        UsageError: for a wrong value.

    Example:
        >>> InsertBatchNormalization().momentum
        0.99
    """

    momentum: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise UsageError(
                "`momentum` must be from 0 to less than 1", received=self.momentum
            )
        if not is_number(self.epsilon) or not self.epsilon > 0:
            raise UsageError("`epsilon` must be above 0", received=self.epsilon)


Option = (
    SeparableConvolutions
    | CheaperActivations
    | RoundChannels
    | Width
    | GlobalPoolingHead
    | FoldNormalization
    | InsertBatchNormalization
)

# What a name stands for: the option with its defaults.
NAMES: dict[str, type] = {
    "separable_convolutions": SeparableConvolutions,
    "cheaper_activations": CheaperActivations,
    "round_channels": RoundChannels,
    "global_pooling_head": GlobalPoolingHead,
    "fold_normalization": FoldNormalization,
    "insert_batch_normalization": InsertBatchNormalization,
}


def options_of(given: Any) -> tuple[Option, ...]:
    """The options that were given, one or several, by name or as configs.

    Raises:
        UsageError: for anything else, or none.

    Example:
        >>> options_of("round_channels")
        (RoundChannels(to=8),)
    """
    one = isinstance(given, (str, Option))
    if not one and (not isinstance(given, Sequence) or not given):
        raise UsageError(
            "`options` must say what to do",
            received=given,
            fix=f'Pass a list like ["{next(iter(NAMES))}", RoundChannels(8)]',
        )
    return tuple(_option(x) for x in ([given] if one else given))


def _option(given: Any) -> Option:
    if isinstance(given, str) and given in NAMES:
        option: Option = NAMES[given]()
        return option
    if not isinstance(given, Option):
        raise UsageError(
            f"An option is one of the names {sorted(NAMES)}, or a config of "
            "kacc.restructuring such as Width(0.5)",
            received=given,
        )
    return given


def _canonical(name: Any) -> str:
    """Keras's own name of an activation, which has several in some cases."""
    import keras

    try:
        if not isinstance(name, str):
            raise TypeError
        return str(keras.activations.get(name).__name__)
    except (TypeError, ValueError, AttributeError):
        raise UsageError(
            "The activations of `table` must be names that Keras knows",
            received=name,
            fix='Pass {"gelu": "hard_silu"}',
        ) from None


def _require_flags(config: Any, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise UsageError(
                f"`{name}` must be True or False", received=getattr(config, name)
            )


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1

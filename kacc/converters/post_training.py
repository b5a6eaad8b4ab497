"""Quantization of plain models by kacc itself, after their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kacc.converters.request import Request
from kacc.converters.samples import Samples
from kacc.converters.trace import freeze
from kacc.core import rules as rule_config
from kacc.core.errors import UsageError
from kacc.core.rules import Rule

BACKEND = "kacc"
_BATCH = 32


@dataclass(frozen=True)
class PostTraining:
    """What kacc is told about a plain model, beyond the samples.

    Args:
        ranges: a `kacc.quantization.Ranges`, or the name of its method.
        rules: exceptions by layer path.
        rounding: "nearest", "adaround", or a `kacc.quantization.AdaRound`.
        bias_correction: whether biases make up for the mean error of their channels.

    Raises:
        UsageError: if one of them is wrong.
    """

    ranges: Any = "minmax"
    rules: Sequence[Rule] = ()
    rounding: Any = "nearest"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        from kacc.quantization import AdaRound, Ranges

        if not isinstance(self.ranges, Ranges):
            object.__setattr__(self, "ranges", Ranges(self.ranges))
        rule_config.checked(self.rules)
        if self.rounding == "adaround":
            object.__setattr__(self, "rounding", AdaRound())
        if self.rounding != "nearest" and not isinstance(self.rounding, AdaRound):
            raise UsageError(
                "`rounding` must be 'nearest', 'adaround' or a kacc.quantization."
                "AdaRound",
                received=self.rounding,
                fix="Pass 'adaround', or kacc.quantization.AdaRound(steps=2000)",
            )

    @property
    def adaptive(self) -> bool:
        """Whether roundings are fitted."""
        return self.rounding != "nearest"

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from the defaults, as JSON values."""
        options: dict[str, Any] = {}
        if self.ranges.method == "percentile":
            options["ranges"] = asdict(self.ranges)
        elif self.ranges.method != "minmax":
            options["ranges"] = self.ranges.method
        if self.rules:
            options["rules"] = rule_config.to_config(self.rules)
        if self.adaptive:
            options["rounding"] = {"method": "adaround", **asdict(self.rounding)}
        if self.bias_correction:
            options["bias_correction"] = True
        return options


def own_request(
    model: Any, scheme: str, plain: Request, batch: int | None, options: PostTraining
) -> Callable[[], Request]:
    """What makes the request for a copy of a plain model that kacc quantizes.

    Args:
        model: the plain model, which stays as it is.
        scheme: name of the scheme.
        plain: the request for the model itself, with its calibration samples.
        batch: a fixed batch size, or None for any.
        options: how to quantize.

    Returns:
        A function without arguments: the work is done when it is called.
    """

    def make() -> Request:
        from kacc.quantization.copies import quantized_copy
        from kacc.quantization.reconstruction import reconstruct

        assert plain.calibration is not None
        # Fitted integers need steps that stay as they are.
        learned_steps = True if options.adaptive else None
        copy = quantized_copy(model, scheme, options.rules, learned_steps)
        calibrate(copy, plain.calibration, options)
        if options.adaptive or options.bias_correction:
            rounding = options.rounding if options.adaptive else None
            inputs = plain.calibration.inputs
            reconstruct(copy, inputs, rounding, options.bias_correction)
        graph = freeze(copy, batch, barriers=True)
        request = replace(
            plain, graph=graph, scheme=scheme, calibration=None, backend=None
        )
        return of_quantized(copy, request)

    return make


def of_quantized(model: Any, request: Request) -> Request:
    """The request with what only the quantized model itself can tell."""
    from kacc import quantization
    from kacc.quantization.constants import file_constants
    from kacc.quantization.inference import explicit_kernels

    return replace(
        request,
        kernels=tuple(explicit_kernels(model)),
        skipped=quantization.skipped_by_rules(model),
        constants=lambda: file_constants(model),
    )


def calibrate(model: Any, samples: Samples, options: PostTraining) -> None:
    """Fills in the ranges of a quantized model."""
    from kacc import quantization
    from kacc.converters.signature import signature_of

    packed = signature_of(model, None).packed
    batches = (
        packed([array[start : start + _BATCH] for array in samples.inputs])
        for start in range(0, len(samples), _BATCH)
    )
    quantization.calibrate(model, batches, options.ranges)

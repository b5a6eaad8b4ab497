"""What is wrong with a call of `kacc.convert`, found before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kacc.converters import legacy
from kacc.converters.post_training import BACKEND, PostTraining
from kacc.converters.request import Export
from kacc.converters.targets import Target
from kacc.core.errors import UsageError


def check_options(
    row: Target, io: Any, batch: int | None, backend: str | None, sparse: bool
) -> None:
    """Raises unless a target takes these options."""
    other = "int8" if row.integer and row.io == "float32" else "float32"
    known = (row.io, other)
    if io not in known:
        raise UsageError(
            f"`io` must be one of {known} for the target {row.name!r}", received=io
        )
    if sparse and not row.sparse:
        raise UsageError(
            f"Files of the target {row.name!r} store all zeros",
            received="sparse=True",
            fix='Leave it out, or convert to "tflite-float32" or "tflite-float16"',
        )
    if batch is not None and not _is_positive(batch):
        raise UsageError(
            "`batch` must be a positive integer, or None for any size", received=batch
        )
    if batch is not None and row.batch not in (None, batch):
        raise UsageError(
            f"The target {row.name!r} takes batches of {row.batch} only", received=batch
        )
    if backend is not None and backend not in row.backends:
        rule = (
            f"`backend` must be one of {row.backends}"
            if row.backends
            else f"The target {row.name!r} has no choice of `backend`"
        )
        raise UsageError(rule, received=backend, fix="Leave it out")


def check_accelerator(row: Target, accelerator: int | None) -> None:
    """Raises unless a target has an NPU of this size."""
    if accelerator is None or accelerator in row.accelerators:
        return
    rule = (
        f"`accelerator` must be one of {row.accelerators}, the MACs per cycle"
        if row.accelerators
        else f"The target {row.name!r} has no choice of `accelerator`"
    )
    raise UsageError(rule, received=accelerator)


def check_scheme(
    row: Target, scheme: str | None, backend: str | None, model: Any
) -> None:
    """Raises unless a target takes models quantized by this scheme."""
    if scheme is None or row.keeps_fake_quantization:
        return
    if scheme not in row.schemes:
        plain = "from_tf_keras" if legacy.is_legacy(model) else "strip"
        fitting = f" or one of {sorted(row.schemes)}" if row.schemes else ""
        raise UsageError(
            f"The target {row.name!r} takes models without a quantization "
            f"scheme{fitting}",
            received=f"a model quantized by the scheme {scheme!r}",
            fix=f"Call kacc.{plain}(model) first, or choose another target",
        )
    if backend is not None:
        raise UsageError(
            "`backend` chooses who calibrates a plain model; this one brings its own "
            "ranges",
            received=backend,
            fix="Leave it out",
        )


def check_post_training(
    row: Target,
    scheme: str | None,
    backend: str | None,
    options: PostTraining,
    model: Any,
) -> None:
    """Raises unless a target and a model take these options of calibration."""
    if not options.given:
        return
    given = " and ".join(f"`{name}`" for name in options.given)
    if not row.integer:
        raise UsageError(
            f"Only targets of integers take {given}",
            received=row.name,
            fix="Leave it out",
        )
    if legacy.is_legacy(model):
        raise UsageError(
            f"Only Keras 3 models take {given}",
            received="a model of tf_keras",
            fix="Call kacc.from_tf_keras(model) first",
        )
    if scheme is not None and set(options.given) - {"ranges"}:
        raise UsageError(
            "Only a plain model takes other options than `ranges`; this one is "
            "quantized already",
            received=given,
            fix="Pass rules to kacc.quantize, or call kacc.strip(model) first",
        )
    if backend not in (None, BACKEND):
        raise UsageError(
            f"Only the backend {BACKEND!r} takes {given}",
            received=f"backend={backend!r}",
            fix="Leave `backend` out",
        )


def check_export(row: Target, export: Export) -> None:
    """Raises unless a target takes these options, and they have values it knows."""
    for name, value in export.given.items():
        if name not in row.options:
            raise UsageError(
                f"The target {row.name!r} has no choice of `{name}`",
                received=value,
                fix="Leave it out",
            )
        allowed = row.options[name]
        if name in _SEVERAL:
            _check_several(name, value, allowed)
        elif allowed and value not in allowed:
            raise UsageError(
                f"`{name}` must be one of {allowed} for the target {row.name!r}",
                received=value,
            )
        elif not allowed and not _is_positive(value):
            raise UsageError(f"`{name}` must be a positive integer", received=value)


_SEVERAL: Mapping[str, str] = {"batch_sizes": "positive integers", "platforms": "names"}


def _check_several(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    right = isinstance(value, Sequence) and not isinstance(value, str) and len(value)
    known = right and all(v in allowed if allowed else _is_positive(v) for v in value)
    if not known or len(set(value)) < len(value):
        what = f"some of {allowed}" if allowed else _SEVERAL[name]
        raise UsageError(
            f"`{name}` must be {what}, each once",
            received=value,
            fix=f"Write it like {name}={allowed[:2] if allowed else (1, 8)}",
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

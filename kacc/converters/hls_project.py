"""Writing a project by hls4ml, and compiling it for this machine by g++."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kacc.converters.chatter import to_log
from kacc.converters.fixed_type import Fixed
from kacc.converters.formats.hls import PROJECT, compile_project
from kacc.converters.hls_layers import Part, Plain

BACKEND = "Vitis"
_SIGMOID_TABLE = 4096  # over -8 to 8; of tanh over -4 to 4
_SOFTMAX = "keras.src.layers.activations.softmax.Softmax"
_LARGEST_INVERSE_TABLE = 14  # bits of its address


def write_project(plain: Plain, folder: Path, reuse_factor: int, io_type: str) -> None:
    """Fills a folder with the project and its library.

    Args:
        plain: the model and its types.
        folder: an empty folder.
        reuse_factor: how often a multiplier is used for one sample.
        io_type: "io_parallel" or "io_stream".

    Raises:
        KaccError: if g++ cannot compile it.
    """
    with to_log():
        import hls4ml

        with _softmax_tables(plain):
            project = hls4ml.converters.convert_from_keras_model(
                plain.model,
                output_dir=str(folder),
                project_name=PROJECT,
                backend=BACKEND,
                io_type=io_type,
                hls_config=_settings(plain, reuse_factor),
                allow_da_fallback=False,
                # In the headers: text files would be read from where they were written.
                write_weights_txt=False,
            )
            project.write()
    _forget_place(folder)
    compile_project(folder)


def _settings(plain: Plain, reuse_factor: int) -> dict[str, Any]:
    """The precisions and the strategy, as hls4ml takes them."""
    strategy = "Latency" if reuse_factor == 1 else "Resource"
    return {
        "Model": {
            "Precision": {"default": "fixed<16,6>"},
            "ReuseFactor": reuse_factor,
            "Strategy": strategy,
        },
        "LayerName": {
            part.name: {
                "Precision": _precision(part),
                "ReuseFactor": reuse_factor,
                "Strategy": strategy,
                "Trace": False,
                "TableSize": _SIGMOID_TABLE,
            }
            for part in plain.parts
        },
    }


def _precision(part: Part) -> dict[str, str]:
    precision = {name: fixed.saturating for name, fixed in part.types.items()}
    # What cannot lose anything needs no circuit that rounds.
    exact = {"weight", "bias", "accum", "scale"} & set(precision)
    precision |= {name: str(part.types[name]) for name in exact}
    activation = getattr(part.layer, "activation", None)
    if getattr(activation, "__name__", "") in ("sigmoid", "tanh"):
        precision["table"] = Fixed(18, 2).saturating
    return precision


@contextlib.contextmanager
def _softmax_tables(plain: Plain) -> Iterator[None]:
    """Inside, hls4ml gives a softmax tables that fit its numbers.

    Its own leave the differences to the largest number so few bits that they wrap.
    """
    from hls4ml.converters.keras_v3 import layer_handlers

    before = layer_handlers[_SOFTMAX]

    def handle(layer: Any, inputs: Any, outputs: Any) -> tuple[dict[str, Any], ...]:
        found = before(layer, inputs, outputs)
        return tuple({**config, **softmax_types(inputs[0].shape[-1])} for config in found)

    layer_handlers[_SOFTMAX] = handle
    try:
        yield
    finally:
        layer_handlers[_SOFTMAX] = before


def softmax_types(classes: int) -> dict[str, Any]:
    """The tables of a softmax over so many classes, as hls4ml's attributes.

    exp is tabulated over differences up to 16 in steps of 2^-8, the inverse over the
    sum, in steps of 2^-10 where the table does not become too large.
    """
    more = (classes - 1).bit_length() + 1
    fraction = min(10, _LARGEST_INVERSE_TABLE - more)
    sums = Fixed(more + 18, more, signed=False)
    types = {
        "inp_norm_t": Fixed(12, 4, signed=False),
        "exp_table_t": Fixed(18, 1, signed=False),
        "accum_t": sums,
        "inv_inp_t": Fixed(more + fraction, more, signed=False),
        "inv_table_t": Fixed(18, 1, signed=False),
    }
    return {
        **{name: _hls4ml_type(fixed) for name, fixed in types.items()},
        "exp_table_size": 2**12,
        "inv_table_size": 2 ** (more + fraction),
        "implementation": "stable",
    }


def _hls4ml_type(fixed: Fixed) -> Any:
    from hls4ml.model.types import FixedPrecisionType, RoundingMode, SaturationMode

    return FixedPrecisionType(
        fixed.width,
        fixed.integer,
        fixed.signed,
        rounding_mode=RoundingMode.RND,
        saturation_mode=SaturationMode.SAT,
    )


def _forget_place(folder: Path) -> None:
    """Takes out where the project was written: it moves, and is run inside itself."""
    settings = folder / "hls4ml_config.yml"
    settings.write_text(settings.read_text().replace(str(folder), "."))


def version() -> Mapping[str, str]:
    """The version of hls4ml."""
    import importlib.metadata

    return {"hls4ml": importlib.metadata.version("hls4ml")}

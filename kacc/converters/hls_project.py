"""Writing a project by hls4ml, and compiling it for this machine by g++."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kacc.converters.chatter import to_log
from kacc.converters.fixed_type import Fixed
from kacc.converters.formats.hls import PROJECT, compile_project
from kacc.converters.hls_layers import Part, Plain
from kacc.core.errors import ConversionError

BACKEND = "Vitis"
_SIGMOID_TABLE = 4096  # over -8 to 8; of tanh over -4 to 4
_LARGEST_INVERSE_TABLE = 14  # bits of its address
_TRIAL = """
import ctypes, sys
call = getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])
call(*[(ctypes.c_float * int(size))() for size in sys.argv[3:]])
"""


def write_project(plain: Plain, folder: Path, reuse_factor: int, io_type: str) -> None:
    """Fills a folder with the project and its library.

    Args:
        plain: the model and its types.
        folder: an empty folder.
        reuse_factor: how often a multiplier is used for one sample.
        io_type: "io_parallel" or "io_stream".

    Raises:
        KaccError: if g++ cannot compile it.
        ConversionError: if it does not run.
    """
    with to_log():
        import hls4ml

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
    _try(compile_project(folder), plain)


def _settings(plain: Plain, reuse_factor: int) -> dict[str, Any]:
    """The precisions and the strategy, as hls4ml takes them."""
    return {
        "Model": {
            "Precision": {"default": "fixed<16,6>"},
            "ReuseFactor": reuse_factor,
            "Strategy": "Latency",
        },
        "LayerName": {
            part.name: {
                "Precision": _precision(part),
                "ReuseFactor": reuse_factor,
                "Strategy": _strategy(part, reuse_factor),
                "Trace": False,
                **_tables(part),
            }
            for part in plain.parts
        },
    }


def _strategy(part: Part, reuse_factor: int) -> str:
    """hls4ml shares multipliers in all but depthwise convolutions."""
    depthwise = type(part.layer).__name__.startswith("Depthwise")
    return "Latency" if reuse_factor == 1 or depthwise else "Resource"


def _precision(part: Part) -> dict[str, str]:
    precision = {name: fixed.saturating for name, fixed in part.types.items()}
    # What cannot lose anything needs no circuit that rounds.
    exact = {"weight", "bias", "accum", "scale"} & set(precision)
    return precision | {name: str(part.types[name]) for name in exact}


def _tables(part: Part) -> dict[str, Any]:
    """The look-up tables of an activation, as attributes of hls4ml's layer."""
    name = getattr(getattr(part.layer, "activation", None), "__name__", "")
    if name in ("sigmoid", "tanh"):
        return {"table_size": _SIGMOID_TABLE, "table_t": Fixed(18, 2).saturating}
    if type(part.layer).__name__ == "Softmax":
        return _softmax_tables(int(part.shape[-1] or 1))
    return {}


def _softmax_tables(classes: int) -> dict[str, Any]:
    """The tables of a softmax over so many classes.

    exp is tabulated over differences up to 16 in steps of 2^-8, the inverse over the
    sum in steps of 2^-10, where that table does not become too large. hls4ml's own
    types leave the differences so few bits that they wrap.
    """
    more = (classes - 1).bit_length() + 1
    fraction = min(10, _LARGEST_INVERSE_TABLE - more)
    types = {
        "inp_norm_t": Fixed(12, 4, signed=False),
        "exp_table_t": Fixed(18, 1, signed=False),
        "accum_t": Fixed(more + 17, more, signed=False),
        "inv_inp_t": Fixed(more + fraction, more, signed=False),
        "inv_table_t": Fixed(18, 1, signed=False),
    }
    return {
        **{name: fixed.saturating for name, fixed in types.items()},
        "exp_table_size": 2**12,
        "inv_table_size": 2 ** (more + fraction),
        "implementation": "stable",
    }


def _try(library: Path, plain: Plain) -> None:
    """Runs one sample of zeros, in a process that hls4ml's assertions may end."""
    symbols = [*plain.model.inputs, *plain.model.outputs]
    sizes = [str(math.prod(symbol.shape[1:])) for symbol in symbols]
    command = [sys.executable, "-c", _TRIAL, str(library), f"{PROJECT}_float", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConversionError(
            "hls4ml's C++ must run the model",
            received=lines[-1].rpartition("Assertion ")[2],
            fix="Pass another reuse_factor or io_type, or replace the layer",
        )


def _forget_place(folder: Path) -> None:
    """Takes out where the project was written: it moves, and is run inside itself."""
    settings = folder / "hls4ml_config.yml"
    settings.write_text(settings.read_text().replace(str(folder), "."))


def version() -> Mapping[str, str]:
    """The version of hls4ml."""
    import importlib.metadata

    return {"hls4ml": importlib.metadata.version("hls4ml")}

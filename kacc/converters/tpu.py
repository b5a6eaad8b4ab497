"""The real TPU compiler, without a TPU: what libtpu says of a StableHLO module.

libtpu (through JAX) compiles for a topology that is described, not there. Nothing runs:
the figures are the compiler's own estimates. It works in a process of its own, since it
reads its settings from the environment when it is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kacc.converters.chatter import logger
from kacc.converters.formats.base import require
from kacc.core.errors import ConversionError, UsageError
from kacc.core.manifest import TensorInfo

# TPU -> what libtpu calls the smallest topology of it, and a slice of that.
TPUS = {
    "v4": ("v4:2x2x1", "v4-8"),
    "v5e": ("v5e:2x2", "v5litepod-4"),
    "v5p": ("v5p:2x2x1", "v5p-8"),
    "v6e": ("v6e:2x2", "v6e-4"),
}
_SECONDS = 1800  # a compilation takes seconds; large models minutes


@dataclass(frozen=True)
class TpuReport:
    """What the TPU compiler says of a module, estimated for one call on one chip.

    Args:
        tpu: such as "v5e".
        flops: floating-point operations.
        bytes_accessed: of memory.
        optimal_seconds: of the call, if nothing waits; None where it says none.
        argument_bytes, output_bytes, temporary_bytes, code_bytes: of memory.
        jax, libtpu: their versions.
    """

    tpu: str
    flops: float
    bytes_accessed: float
    optimal_seconds: float | None
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    code_bytes: int
    jax: str
    libtpu: str


def compile_for_tpu(
    module: bytes,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    tpu: str = "v5e",
) -> TpuReport:
    """Compiles a StableHLO module with libtpu.

    Args:
        module: a portable artifact.
        inputs: its arguments, of fixed shapes.
        outputs: its results.
        tpu: one of `TPUS`.

    Returns:
        The compiler's report.

    Raises:
        UsageError: for an unknown TPU.
        KaccError: if jax or libtpu is not installed.
        ConversionError: if the compiler refuses the module, with its reason.

    Example:
        >>> compile_for_tpu(b"", [], [], "v1")
        Traceback (most recent call last):
        ...
        kacc.core.errors.UsageError: `tpu` must be one of ['v4', 'v5e', 'v5p', 'v6e']...
    """
    if tpu not in TPUS:
        raise UsageError(f"`tpu` must be one of {sorted(TPUS)}", received=tpu)
    for package in ("jax", "libtpu"):
        require(package, "tpu", "Compiling for TPUs")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "module").write_bytes(module)
        shapes = [[(list(i.shape), i.dtype) for i in x] for x in (inputs, outputs)]
        Path(folder, "request.json").write_text(json.dumps([tpu, *shapes]))
        text = _run(folder, TPUS[tpu][1])
    return TpuReport(**json.loads(text.strip().splitlines()[-1]))


def _run(folder: str, slice_type: str) -> str:
    """Runs this module as a program; what it printed."""
    environment = {
        **os.environ,
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": slice_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing here holds a TPU
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "kacc.converters.tpu", folder]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS, env=environment
    )
    logger.debug("%s", done.stdout + done.stderr)
    if done.returncode == 0:
        return done.stdout
    lines = [x for x in done.stderr.splitlines() if "Error" in x] or [done.stderr]
    raise ConversionError(
        "The TPU compiler must be able to compile the module",
        received=lines[-1].strip()[:300],
        fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
    )


def exported(
    module: bytes,
    inputs: Sequence[tuple[Sequence[int], str]],
    outputs: Sequence[tuple[Sequence[int], str]],
    platform: str,
) -> Any:
    """A StableHLO module as JAX's own `jax.export.Exported`, which can be called.

    Args:
        module: a portable artifact.
        inputs: shape and dtype of each argument.
        outputs: the same of each result.
        platform: "cpu", "cuda" or "tpu".

    Returns:
        The `Exported`; its results are a tuple.
    """
    import dataclasses

    import jax
    from jax import export

    # A function of the same arguments and number of results brings everything but the
    # module and the shapes of the results.
    def like(*arguments: Any) -> tuple[Any, ...]:
        return tuple(jax.numpy.zeros(()) for _ in outputs)

    structs = [jax.ShapeDtypeStruct(tuple(s), d) for s, d in inputs]
    jitted = jax.jit(like, keep_unused=True)
    made = export.export(jitted, platforms=[platform])(*structs)
    return dataclasses.replace(
        made,
        mlir_module_serialized=module,
        out_avals=tuple(jax.core.ShapedArray(tuple(s), d) for s, d in outputs),
    )


def _compile(folder: Path) -> dict[str, Any]:
    """What the process of its own does: compiles, and gathers the figures."""
    import jax
    import libtpu
    from jax.experimental import topologies

    tpu, inputs, outputs = json.loads((folder / "request.json").read_text())
    module = exported((folder / "module").read_bytes(), inputs, outputs, "tpu")
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TPUS[tpu][0])
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])
    structs = [jax.ShapeDtypeStruct(tuple(s), d) for s, d in inputs]
    jitted = jax.jit(module.call, in_shardings=chip, out_shardings=chip)
    compiled = jitted.trace(*structs).lower(lowering_platforms=("tpu",)).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    seconds = cost.get("optimal_seconds", -1.0)  # negative: of a part it knows none
    return {
        "tpu": tpu,
        "flops": float(cost.get("flops", 0)),
        "bytes_accessed": float(cost.get("bytes accessed", 0)),
        "optimal_seconds": seconds if seconds >= 0 else None,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "jax": jax.__version__,
        "libtpu": libtpu.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(_compile(Path(sys.argv[1]))))  # noqa: T201

"""A model as C or C++ source: an array, its header, and the calls of the resolver."""

from __future__ import annotations

from collections.abc import Sequence

from kacc.converters.micro_operators import MicroOperator

LANGUAGES = {"c++": ".cc", "c": ".c"}
# C11 and C++11 spell it differently.
_ALIGNED = {"c++": "alignas(16)", "c": "_Alignas(16)"}
_BYTES_PER_LINE = 12
_GUARD = """#ifndef {guard}
#define {guard}
{body}
#endif  // {guard}
"""
_HEADER = """
#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}[];
extern const unsigned int {name}_len;

#ifdef __cplusplus
}}
#endif

// Bytes of tensor arena that one sample needs: an estimate.
#define {macro}_ARENA_SIZE {arena}
"""
_RESOLVER = """
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

constexpr unsigned int {name}_operator_count = {count};

// Adds the operators that the model needs, and no others.
inline TfLiteStatus {name}_add_operators(
    tflite::MicroMutableOpResolver<{name}_operator_count>& resolver) {{
{calls}
  return kTfLiteOk;
}}
"""
_CALL = "  if (resolver.{call}() != kTfLiteOk) return kTfLiteError;"


def array_source(data: bytes, name: str, language: str, comment: str) -> str:
    """The file that defines the array and its length.

    Args:
        data: the content of the model.
        name: of the array.
        language: "c++" or "c".
        comment: a line on what it is.

    Example:
        >>> print(array_source(bytes([1, 255]), "model", "c++", "Two bytes."))
        // Two bytes.
        #include "model.h"
        <BLANKLINE>
        alignas(16) const unsigned char model[] = {
          0x01, 0xff,
        };
        const unsigned int model_len = 2;
        <BLANKLINE>
    """
    lines = (
        "  0x"
        + data[start : start + _BYTES_PER_LINE].hex(" ").replace(" ", ", 0x")
        + ","
        for start in range(0, len(data), _BYTES_PER_LINE)
    )
    return "\n".join(
        [
            f"// {comment}",
            f'#include "{name}.h"',
            "",
            f"{_ALIGNED[language]} const unsigned char {name}[] = {{",
            *lines,
            "};",
            f"const unsigned int {name}_len = {len(data)};",
            "",
        ]
    )


def header_source(name: str, arena: int, comment: str) -> str:
    """The header of the array, for C and C++, with the size of the arena.

    Args:
        name: of the array.
        arena: bytes.
        comment: a line on what it is.
    """
    body = _HEADER.format(name=name, macro=name.upper(), arena=arena)
    guard = f"KACC_{name.upper()}_H_"
    return f"// {comment}\n" + _GUARD.format(guard=guard, body=body)


def resolver_source(name: str, operators: Sequence[MicroOperator], comment: str) -> str:
    """The C++ header with the calls that add the operators to TFLM's resolver.

    Args:
        name: of the array.
        operators: those that the file needs.
        comment: a line on what it is.
    """
    calls = "\n".join(_CALL.format(call=operator.call) for operator in operators)
    body = _RESOLVER.format(name=name, count=len(operators), calls=calls)
    guard = f"KACC_{name.upper()}_OPERATORS_H_"
    return f"// {comment}\n" + _GUARD.format(guard=guard, body=body)

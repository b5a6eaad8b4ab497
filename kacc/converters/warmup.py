"""Requests that TensorFlow Serving runs when it loads a model: XLA compiles then.

A file of records, each a `tensorflow.serving.PredictionLog` (TensorFlow Serving's
"SavedModel Warmup"). Its messages are declared here by their field numbers, since the
package that has them, tensorflow-serving-api, is bound to one version of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kacc.core.manifest import TensorInfo

# Message -> field -> (number, type). From TensorFlow Serving's apis/: model.proto,
# predict.proto and prediction_log.proto.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "InputsEntry": {"key": (1, "string"), "value": (2, "bytes")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "*InputsEntry")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def warmup_requests(
    path: Path, inputs: Sequence[TensorInfo], signatures: Mapping[str, int]
) -> None:
    """Writes a request of zeros for each signature.

    Args:
        path: the file; TensorFlow Serving looks for
            `assets.extra/tf_serving_warmup_requests` in the version folder.
        inputs: what the model takes.
        signatures: name -> batch size.
    """
    import tensorflow as tf

    classes = _classes()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, size in signatures.items():
            log = classes["PredictionLog"]()
            request = log.predict_log.request
            request.model_spec.signature_name = name
            for info in inputs:
                shape = (size, *(n or 1 for n in info.shape[1:]))
                zeros = tf.make_tensor_proto(0, info.dtype, shape)  # one number
                request.inputs.add(key=info.name, value=zeros.SerializeToString())
            writer.write(log.SerializeToString())


def _classes() -> Mapping[str, Any]:
    """The messages' classes, with a TensorProto as its bytes: the wire is the same."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    plain = {"string": field.TYPE_STRING, "bytes": field.TYPE_BYTES}
    file = descriptor_pb2.FileDescriptorProto(
        name="kacc/warmup.proto", package="kacc.warmup", syntax="proto3"
    )
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            several, kind = kind.startswith("*"), kind.removeprefix("*")
            label = field.LABEL_REPEATED if several else field.LABEL_OPTIONAL
            entry = declared.field.add(name=name, number=number, label=label)
            entry.type = plain.get(kind, field.TYPE_MESSAGE)
            if kind not in plain:
                entry.type_name = f".kacc.warmup.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"kacc.warmup.{name}")
        )
        for name in _MESSAGES
    }

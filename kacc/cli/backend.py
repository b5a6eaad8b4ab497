"""Starting TensorFlow for a command: quietly, with a word to the one who waits."""

from __future__ import annotations

import os

from rich.console import Console

from kacc.converters.chatter import to_log


def start() -> None:
    """Import TensorFlow and Keras and let them look for devices."""
    console = Console(stderr=True)
    with console.status("starting TensorFlow"):
        if "TF_CPP_MIN_LOG_LEVEL" in os.environ:  # not with --debug
            with to_log():
                _import()
        else:
            _import()


def _import() -> None:
    import tensorflow as tf

    tf.config.list_logical_devices()  # what it says of GPUs belongs here as well
    import keras  # noqa: F401

import numpy as np

from kacc.core.memory import release


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_what_is_freed_goes_back_to_the_system():
    """Small pieces between others, which the C library keeps by itself."""
    held = [np.ones(2**14, "uint8") for _ in range(2**14)]  # 256 MiB
    pins = [np.ones(100, "uint8") for _ in range(100)]
    full = resident()
    del held
    release()
    assert resident() < full - 200 * 2**20
    assert pins

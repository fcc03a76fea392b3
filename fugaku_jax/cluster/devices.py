"""Devices that this machine does not have: emulated by its CPU."""

import jax

from fugaku_jax.errors import InputError


def emulate(devices: int | None) -> None:
    """Let JAX see this many CPU devices in this process; None leaves it to JAX.

    Call it before anything touches a device. The devices share the machine's cores.

    Raises:
        InputError: the number is not between 1 and 2,048, the most that JAX counts in a process.
    """
    if devices is None:
        return
    if not 1 <= devices <= 2048:
        raise InputError(f"--emulate-devices is {devices}, but it must be from 1 to 2048.")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)

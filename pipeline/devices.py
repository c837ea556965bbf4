"""Devices of worker processes."""

import os


def take_device(device: str) -> str:
    """Let this process see one GPU only, and return what to call the device from then on.

    It is set before CUDA starts, so that whoever takes the first GPU takes this one.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or, as ``cuda:1``, one of the GPUs that this process may use.
    """
    if not device.startswith("cuda:"):
        return device
    place = int(device.removeprefix("cuda:"))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[place] if seen else str(place)
    return "cuda"

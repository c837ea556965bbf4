"""The device that torch computes on, by its name."""

import torch

from cyclades.stages.core.errors import InputError


def torch_device(name: str) -> torch.device:
    """Return a device that is there.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, or one of several as ``"cuda:1"``.

    Raises
    ------
    InputError
        Where torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"There is no device {name!r}; give cpu, cuda, or one of several as cuda:1."
        ) from error
    if device.type == "cuda":
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= number:
            raise InputError(
                f"There is no GPU for the device {name!r} (or torch was installed without one); "
                "use --device cpu."
            )
    return device

"""What a run lends to its stages."""

import pytest

from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError


@pytest.mark.parametrize("device", ["gpu", "cuda0", "cuda:", "", "CPU"])
def test_a_device_that_there_is_not_is_refused_before_anything_runs(device):
    with pytest.raises(ConfigurationError, match=r"no device.*cuda:1"):
        Context(device=device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices_are_looked_for_only_by_what_needs_them(device):
    with Context(device=device) as context:
        assert context.device == device

"""What the tests of trainings share."""

import signal

import pytest


@pytest.fixture
def one_processor(monkeypatch):
    """The same arithmetic, and signals as they were, whatever machine this is."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)

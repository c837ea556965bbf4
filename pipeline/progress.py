"""How far a piece of work of several steps is."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with words for the step that begins, and with ``"detection 40 %"`` within it."""
Told = Callable[[int, int, str], None]
"""Called with the number of steps that are done, their number in all, and words for the next."""


class Steps:
    """Counts the steps of a piece of work and tells of each as it begins.

    Parameters
    ----------
    told : callable, optional
        Called with the steps done, the steps in all, and words.
    number : int
        Steps in all.
    """

    def __init__(self, told: Told | None, number: int) -> None:
        self.told, self.number, self.begun = told, number, 0

    def begin(self, words: str) -> None:
        """Count a step, and tell of it."""
        self.begun += 1
        self._tell(words)

    def end(self) -> None:
        """Tell that all is done."""
        if self.told is not None:
            self.told(self.number, self.number, "")

    def of(self, name: str) -> Progress:
        """Return a listener for a part of the work, as `Pipeline.run` takes it.

        Parameters
        ----------
        name : str
            Of the part; stands before its words.
        """

        def listen(words: str) -> None:
            # "detection 40 %" is news of a step that was counted when it began
            if words.endswith("%"):
                self._tell(f"{name}: {words}")
            else:
                self.begin(f"{name}: {words}")

        return listen

    def _tell(self, words: str) -> None:
        if self.told is not None:
            self.told(self.begun - 1, self.number, words)

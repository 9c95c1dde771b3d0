"""Foresees when the model will be asked next, told in frames of a history."""

from __future__ import annotations


class QuestionForecast:
    """Foresees how many frames will have entered a history when the next question is asked.

    Two guesses: as many primitives after the last question as its answer has, less those that were still
    to be done at the question before (a robot that is asked ahead); or as many as between the two
    questions before (one that is asked in a rhythm of its own). The one that was right last holds, at first
    the former. A wrong guess costs time and nothing else: whoever uses it must not rely on it.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new run."""
        self._asked: int | None = None
        self._primitives = 0
        self._left = 0
        self._between: int | None = None
        self._is_rhythm = False
        self._is_new = True

    def seen(self) -> None:
        """A frame has come: the next question is another one."""
        self._is_new = True

    def answered(self, entered: int, primitives: int) -> None:
        """A question behind ``entered`` frames, its own included, was answered with so many primitives."""
        if self._asked is not None and self._is_new:
            between = entered - self._asked
            by_answer, by_rhythm = self._by_answer == between, self._between == between
            if by_answer != by_rhythm:
                self._is_rhythm = by_rhythm
            self._left, self._between = self._primitives - between, between
        self._asked, self._primitives, self._is_new = entered, primitives, False

    def entered(self) -> int:
        """How many frames will have entered at the next question, its own included; 1 before the first."""
        if self._asked is None:
            return 1
        rhythm = self._between if self._is_rhythm else None
        return self._asked + (self._by_answer if rhythm is None else rhythm)

    @property
    def _by_answer(self) -> int:
        return max(self._primitives - self._left, 0)

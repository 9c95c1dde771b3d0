"""Makes the parts of a profile's conversation: turns, images, questions, replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import PixelGoalSpec, Profile
from vln_ros.engine.inputs import prompt
from vln_ros.engine.stream.segments import Image, Piece, Text, Video


@dataclass(frozen=True)
class TurnText:
    """A user turn without the frames that are asked about: what comes before and after them."""

    prefix: tuple[Piece, ...]
    suffix: tuple[Piece, ...]


class ChatTemplate:
    """Renders and tokenises a profile's turns."""

    def __init__(self, model: LoadedModel, profile: Profile) -> None:
        self.profile = profile
        self._tokenizer: PreTrainedTokenizerFast = model.tokenizer
        self._tokens = model.tokens

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))

    def opening(self) -> tuple[Piece, ...]:
        return self._pieces(prompt.opening(self.profile), (), None)

    def turn(
        self, number: int, instruction: str, history: Sequence[Image], block: int | None = None
    ) -> TurnText:
        """Turn ``number`` (from 0), with the past frames that it shows."""
        rendered = prompt.turn(self.profile, number, instruction, history=len(history))
        asked = rendered.index(prompt.ImageMark(len(history)))
        return TurnText(
            self._pieces(rendered[:asked], history, block),
            self._pieces(rendered[asked + 1 :], history, block),
        )

    def look_down(self, spec: PixelGoalSpec, picture: Image) -> tuple[Piece, ...]:
        """The turn that shows the picture which the model has asked for, up to where it answers."""
        return self._pieces(prompt.look_down(spec), (picture,), None)

    def shown(self, picture: Image | Video, block: int | None = None) -> tuple[Piece, ...]:
        """A picture between its vision markers."""
        return (
            Text((self._tokens.vision_start,), block),
            replace(picture, block=block),
            Text((self._tokens.vision_end,), block),
        )

    def user(self) -> tuple[Piece, ...]:
        """The beginning of a user turn that is in no profile."""
        return (Text(self.tokenize("<|im_start|>user\n")),)

    def query(self, text: str) -> tuple[int, ...]:
        """A question at the end of a user turn, up to where the model answers."""
        return self.tokenize(prompt.clean_instruction(text) + "<|im_end|>\n<|im_start|>assistant\n")

    def choice(self, text: str) -> tuple[int, ...]:
        """One of the answers that a question leaves."""
        return self.tokenize(prompt.clean_instruction(text))

    def reply(self, ids: Sequence[int], block: int | None = None) -> tuple[Piece, ...]:
        """The model's answer and the end of its turn."""
        return (Text((*ids, *self.tokenize(prompt.REPLY_END)), block),)

    def _pieces(
        self, rendered: Sequence[prompt.Piece], images: Sequence[Image], block: int | None
    ) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for part in rendered:
            if isinstance(part, prompt.ImageMark):
                pieces += self.shown(images[part.index], block)
            else:
                pieces.append(Text(self.tokenize(part), block))
        return tuple(pieces)

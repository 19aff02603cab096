"""A growing text that ends at certain words: what of it may be given away already. Pure."""

import codecs
from collections.abc import Sequence


class StopWords:
    """Holds back what may be the beginning of a word that ends the text.

    Attributes:
        is_stopped: one of the words came; nothing of it or behind it is given.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [word for word in words if word]
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Take more of the text; return what is certain now."""
        if self.is_stopped:
            return ""
        held = self._held + text
        places = [place for word in self._words if (place := held.find(word)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return held[: min(places)]
        sizes = (
            size
            for word in self._words
            for size in range(1, min(len(word), len(held) + 1))
            if held.endswith(word[:size])
        )
        at = len(held) - max(sizes, default=0)
        self._held = held[at:]
        return held[:at]

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


class PieceReader:
    """Pieces of a tokenizer, which may hold half a character, as text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """Take a piece; return the characters that are whole now."""
        return self._decoder.decode(piece)

    def rest(self) -> str:
        """What half a character at the end becomes."""
        return self._decoder.decode(b"", final=True)

"""A sentence encoder as a service that answers ``/v1/embeddings``: a registered ONNX model, and the tokenizer's file beside the service.

    from skyloom.recipes.text_embedding import TextEmbedding

    class Embed(TextEmbedding):
        models = {"encoder": "minilm"}     # skyloom model register minilm model.onnx
        files = ("tokenizer.json",)

The vector of a text is the mean of its tokens' last hidden states, of length one (as sentence-transformers makes them); a model that has
an output of one vector for each text is taken at its word.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from skyloom.inference.services.length_queue import LengthQueue
from skyloom.sdk.service import BadRequest, Service, endpoint

_AT_ONCE = 16  # texts in one run of the model; of like length, so that little is padding


class TextVectors(TypedDict):
    """Vectors in the order of the texts, and how many tokens these had."""

    embeddings: list[list[float]]
    prompt_tokens: int


class TextEmbedding(Service):
    """Base of services that embed texts.

    Attributes:
        encoder: which of ``models`` it is.
        tokenizer: its file, beside the service's file.
        max_tokens: of one text; longer ones are refused.
    """

    encoder: ClassVar[str] = "encoder"
    tokenizer: ClassVar[str] = "tokenizer.json"
    max_tokens: ClassVar[int] = 512

    def setup(self) -> None:
        """Load the tokenizer."""
        from tokenizers import Tokenizer

        folder = Path(str(sys.modules[type(self).__module__].__file__)).parent
        self._tokenizer = Tokenizer.from_file(str(folder / self.tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._queue: LengthQueue[Any, list[float]] = LengthQueue(self._vectors, lambda one: len(one.ids), _AT_ONCE)
        self._inputs = [spec.name for spec in self.model(self.encoder).signature.inputs]

    @endpoint(timeout_s=120)
    async def embed(self, texts: list[str]) -> TextVectors:
        """One vector for each text. Texts of all callers that wait travel together where their lengths are alike."""
        encoded = await asyncio.to_thread(self._tokenizer.encode_batch, texts)
        longest = max((len(one.ids) for one in encoded), default=0)
        if longest > self.max_tokens:
            raise BadRequest(f"This model's maximum context length is {self.max_tokens} tokens; a text has {longest}.")
        vectors = await self._queue.vectors(encoded)
        return {"embeddings": vectors, "prompt_tokens": sum(len(one.ids) for one in encoded)}

    def _vectors(self, encoded: list[Any]) -> list[list[float]]:  # on a thread
        width = max(1, *(len(one.ids) for one in encoded))
        mask = np.array([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in encoded], np.int64)
        made = {
            "input_ids": np.array([one.ids + [0] * (width - len(one.ids)) for one in encoded], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        told = self.model(self.encoder).predict({name: made[name] for name in self._inputs})
        flat = next((output for output in told.values() if output.ndim == 2), None)
        if flat is None:
            hidden, weights = next(iter(told.values())), mask[:, :, None].astype(np.float32)
            flat = (hidden * weights).sum(axis=1) / weights.sum(axis=1).clip(1)
        lengths = np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
        vectors: list[list[float]] = (flat / lengths).tolist()
        return vectors

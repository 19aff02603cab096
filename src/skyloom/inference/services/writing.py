"""A GGUF model as a service that nobody wrote: it answers the OpenAI API, by llama.cpp with continuous batching."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from skyloom.inference.services.llama import LlamaBatches, Sampling, Writing, Written, WrittenOut
from skyloom.inference.services.openai_bounds import MaxTokens, NumLogprobs, Seed, Stop, Temperature, TopP
from skyloom.inference.services.stopping import PieceReader, StopWords
from skyloom.rooms.registry.bundle import MODEL_FILES, Manifest, RuntimeName, TextLimits
from skyloom.rooms.registry.services import ServiceSpec
from skyloom.sdk.describing import describe
from skyloom.sdk.service import BadRequest, Service, endpoint

PLATFORM = "llama_cpp"
WAITING_FOR_EACH = 8  # requests that may wait for each that runs; the next is refused
_DEFAULT_MAX_TOKENS = 512
_TIMEOUT_S = 300.0

TextPart = str | dict[str, Any]


class GgufText(Service):
    """Text by a language model."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int, gpus: int) -> None:
        """Load the model of a verified bundle. Raises `BundleRefused`."""
        limits = manifest.text or TextLimits()
        path = folder / MODEL_FILES[RuntimeName.GGUF]
        self._batches = LlamaBatches(path, threads, gpus, limits.context_tokens, limits.num_at_once)
        self._chat = self._formatter()

    @endpoint(timeout_s=_TIMEOUT_S)
    async def chat(
        self,
        messages: list[dict[str, str]],
        max_tokens: MaxTokens | None = None,
        temperature: Temperature = 1.0,
        top_p: TopP = 1.0,
        stop: Stop | None = None,
        seed: Seed | None = None,
        num_logprobs: NumLogprobs | None = None,
    ) -> AsyncIterator[TextPart]:
        """Answer a conversation, by the model's own template."""
        if self._chat is None:
            raise BadRequest("This model has no chat template.", next_action="Use /v1/completions.")
        try:
            text = self._chat(messages=messages).prompt
        except Exception as error:  # a template is a program of the model's; what it raises is about the messages
            raise BadRequest(f"The messages do not fit the model's template: {error}") from error
        prompt = await asyncio.to_thread(self._batches.tokens, text, is_template=True)
        async for part in self._generate(prompt, max_tokens, Sampling(0, temperature, top_p, seed, num_logprobs), stop):
            yield part

    @endpoint(timeout_s=_TIMEOUT_S)
    async def complete(
        self,
        prompt: str,
        max_tokens: MaxTokens | None = None,
        temperature: Temperature = 1.0,
        top_p: TopP = 1.0,
        stop: Stop | None = None,
        seed: Seed | None = None,
        num_logprobs: NumLogprobs | None = None,
    ) -> AsyncIterator[TextPart]:
        """Continue a text."""
        tokens = await asyncio.to_thread(self._batches.tokens, prompt, is_template=False)
        async for part in self._generate(tokens, max_tokens, Sampling(0, temperature, top_p, seed, num_logprobs), stop):
            yield part

    async def _generate(
        self, prompt: list[int], max_tokens: int | None, sampling: Sampling, stop: list[str] | None
    ) -> AsyncIterator[TextPart]:
        sampling = sampling._replace(max_tokens=self._fitting(prompt, max_tokens))
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[object]()
        writing = Writing(prompt, sampling, lambda said: loop.call_soon_threadsafe(heard.put_nowait, said))
        reader, words, is_cut = PieceReader(), StopWords(stop or ()), False
        told = _Told(sampling.num_likely is not None)
        self._batches.write(writing)
        try:
            while not words.is_stopped:
                said = await heard.get()
                if isinstance(said, WrittenOut):
                    is_cut = said.is_cut
                    text = words.feed(reader.rest())
                    part = told.part(text + words.rest())
                elif isinstance(said, Written):
                    told.add(said)
                    part = told.part(words.feed(reader.feed(said.piece)))
                if part:
                    yield part
                if isinstance(said, WrittenOut):
                    break
        finally:
            self._batches.give_up(writing)
        yield {
            "finish_reason": "length" if is_cut and not words.is_stopped else "stop",
            "prompt_tokens": len(prompt),
            "completion_tokens": told.num_tokens,
        }

    def _fitting(self, prompt: list[int], max_tokens: int | None) -> int:
        """The tokens that may be written. Raises `BadRequest` when prompt and answer have no room together."""
        if not prompt:
            raise BadRequest("The prompt is empty.", next_action="Say something.")
        room = self._batches.context_tokens - len(prompt)
        if (max_tokens or 1) > room:
            asked = f" and {max_tokens} are asked for" if max_tokens else ""
            raise BadRequest(
                f"This model's maximum context length is {self._batches.context_tokens} tokens; "
                f"the prompt has {len(prompt)}{asked}.",
                next_action="Shorten the prompt, or ask for fewer tokens.",
            )
        return max_tokens or min(_DEFAULT_MAX_TOKENS, room)

    def _formatter(self) -> Any:
        template = self._batches.template()
        if not template:
            return None
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # a sandbox: templates come with the model

        begin, end = self._batches.ends()
        return Jinja2ChatFormatter(template, eos_token=end, bos_token=begin)


class _Told:
    """What is told with the text: the count, and probabilities of tokens whose text is not given yet."""

    def __init__(self, has_probabilities: bool) -> None:
        self._has_probabilities = has_probabilities
        self._kept: list[dict[str, Any]] = []
        self.num_tokens = 0

    def add(self, said: Written) -> None:
        self.num_tokens += 1
        if self._has_probabilities:
            likely = [_token(one.piece, one.logprob) for one in said.likely]
            self._kept.append({**_token(said.piece, said.chosen), "top_logprobs": likely})

    def part(self, text: str) -> TextPart:
        if not self._has_probabilities or not (text and self._kept):
            return text
        kept, self._kept = self._kept, []
        return {"text": text, "logprobs": kept}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


def writes(manifest: Manifest) -> bool:
    """True for bundles that a language model is all of."""
    return manifest.runtime is RuntimeName.GGUF


def writing_spec(manifest: Manifest) -> ServiceSpec:
    """What the data plane knows of it."""
    num_at_once = (manifest.text or TextLimits()).num_at_once
    spec, _ = describe(GgufText, "model")
    methods = tuple(msgspec.structs.replace(method, concurrency=num_at_once) for method in spec.methods)
    return msgspec.structs.replace(spec, methods=methods)

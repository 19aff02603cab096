"""A GGUF model as a service that nobody wrote: it answers the OpenAI API, by llama.cpp with continuous batching."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.inference.services.llama import LlamaBatches, Writing, Written, WrittenOut
from skyloom.inference.services.openai_bounds import (
    JsonSchema,
    LogitBias,
    MaxTokens,
    NumAnswers,
    NumLogprobs,
    Penalty,
    Seed,
    Stop,
    Temperature,
    TopP,
)
from skyloom.inference.services.sampling import Sampling
from skyloom.inference.services.schemas import SchemaUnfit, check_schema
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
        num_answers: NumAnswers = 1,
        presence_penalty: Penalty | None = None,
        frequency_penalty: Penalty | None = None,
        logit_bias: LogitBias | None = None,
        json_schema: JsonSchema | None = None,
    ) -> AsyncIterator[TextPart]:
        """Answer a conversation, by the model's own template."""
        if self._chat is None:
            raise BadRequest("This model has no chat template.", next_action="Use /v1/completions.")
        try:
            text = self._chat(messages=messages).prompt
        except Exception as error:  # a template is a program of the model's; what it raises is about the messages
            raise BadRequest(f"The messages do not fit the model's template: {error}") from error
        prompt = await asyncio.to_thread(self._batches.tokens, text, is_template=True)
        rest = (num_logprobs, presence_penalty, frequency_penalty, logit_bias, json_schema)
        sampling = Sampling(0, temperature, top_p, seed, *rest)
        async for part in self._generate(prompt, max_tokens, sampling, stop, num_answers):
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
        num_answers: NumAnswers = 1,
        presence_penalty: Penalty | None = None,
        frequency_penalty: Penalty | None = None,
        logit_bias: LogitBias | None = None,
    ) -> AsyncIterator[TextPart]:
        """Continue a text."""
        tokens = await asyncio.to_thread(self._batches.tokens, prompt, is_template=False)
        rest = (num_logprobs, presence_penalty, frequency_penalty, logit_bias)
        sampling = Sampling(0, temperature, top_p, seed, *rest)
        async for part in self._generate(tokens, max_tokens, sampling, stop, num_answers):
            yield part

    async def _generate(
        self, prompt: list[int], max_tokens: int | None, sampling: Sampling, stop: list[str] | None, num_answers: int
    ) -> AsyncIterator[TextPart]:
        sampling = sampling._replace(max_tokens=self._fitting(prompt, max_tokens))
        grammar = await self._grammar(sampling.json_schema)
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[tuple[int, object]]()
        answers = []
        for index in range(num_answers):

            def tell(said: object, index: int = index) -> None:
                loop.call_soon_threadsafe(heard.put_nowait, (index, said))

            seed = sampling.seed if sampling.seed is None else sampling.seed + index
            writing = Writing(prompt, sampling._replace(seed=seed), tell, grammar)
            answers.append(_Answer(index, writing, stop or (), has_probabilities=sampling.num_likely is not None))
        for answer in answers:
            self._batches.write(answer.writing)
        try:
            while not all(answer.is_over for answer in answers):
                index, said = await heard.get()
                answer = answers[index]
                if answer.is_over:
                    continue
                if part := answer.hear(said):
                    yield part
                if answer.is_over:
                    self._batches.give_up(answer.writing)
                    yield answer.last_words()
        finally:
            for answer in answers:
                self._batches.give_up(answer.writing)

    async def _grammar(self, schema: str | None) -> str:
        """Of the texts that fit a schema. Raises `BadRequest`."""
        if schema is None:
            return ""
        try:
            check_schema(schema)
            return await asyncio.to_thread(self._batches.grammar, schema)
        except (SchemaUnfit, ValueError) as error:
            raise BadRequest(
                f"The schema of response_format cannot be followed: {error}.", next_action="Make it simpler."
            ) from error

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


class _Answer:
    """One answer as it is written: what of its text is certain, and probabilities of tokens whose text is not given yet."""

    def __init__(self, index: int, writing: Writing, stop: Sequence[str], *, has_probabilities: bool) -> None:
        self.writing = writing
        self.is_over = False
        self._index = index
        self._reader, self._words = PieceReader(), StopWords(stop)
        self._has_probabilities = has_probabilities
        self._kept: list[dict[str, Any]] = []
        self._num_tokens = 0
        self._reason = "stop"

    def hear(self, said: object) -> TextPart:
        """More of it; what may be told now. Raises `BadRequest` when nothing fits its grammar."""
        if isinstance(said, WrittenOut):
            if said.is_stuck:
                raise BadRequest("The model has no word that fits the schema of response_format.")
            self._reason = "length" if said.is_cut else "stop"
            text = self._words.feed(self._reader.rest())
            self.is_over = True
            return self._part(text + self._words.rest())
        assert isinstance(said, Written)
        self._add(said)
        part = self._part(self._words.feed(self._reader.feed(said.piece)))
        self.is_over = self._words.is_stopped
        return part

    def last_words(self) -> TextPart:
        """Why it ended, and the counts."""
        return {
            "finish_reason": "stop" if self._words.is_stopped else self._reason,
            "prompt_tokens": len(self.writing.prompt),
            "completion_tokens": self._num_tokens,
            "index": self._index,
        }

    def _add(self, said: Written) -> None:
        self._num_tokens += 1
        if self._has_probabilities:
            likely = [_token(one.piece, one.logprob) for one in said.likely]
            self._kept.append({**_token(said.piece, said.chosen), "top_logprobs": likely})

    def _part(self, text: str) -> TextPart:
        if not text or not (self._index or self._kept):
            return text
        kept, self._kept = self._kept, []
        return {"text": text, "index": self._index} | ({"logprobs": kept} if kept else {})


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

"""A language model as a service that answers the OpenAI API, by transformers or vLLM with continuous batching.

    from skyloom.recipes.text_generation import TextGeneration

    class Chat(TextGeneration):
        weights = "model"            # a folder beside the file: config.json, *.safetensors, tokenizer files
        files = ("model/*",)

Requests join and leave the running batch token by token, so a long answer holds up no short one. Weights are safetensors; code in a
model's folder is never run, and nothing is fetched from anywhere.
"""

import contextlib
import importlib.util
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

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
from skyloom.inference.services.stopping import StopWords
from skyloom.recipes.generation.seam import EngineChoice, TextEngine, WishUnfit, asked, choose
from skyloom.recipes.generation.several import Part, seed_of, together
from skyloom.sdk.service import BadRequest, Service, endpoint


class TextGeneration(Service):
    """Base of services that generate text.

    Attributes:
        weights: folder of the model, beside the service's file.
        engine: ``auto`` takes vLLM where it is installed and there is a GPU; ``vllm`` asks for it anywhere, ``transformers`` never.
        cache_tokens: tokens of all running requests together, prompts included, that the cache of keys and values has room for.
        default_max_tokens: of an answer, when the client does not say.
    """

    weights: ClassVar[str] = "model"
    engine: ClassVar[str] = EngineChoice.AUTO
    cache_tokens: ClassVar[int] = 16_384
    default_max_tokens: ClassVar[int] = 256

    def setup(self) -> None:
        """Load the model and start its batching; on the loop that the endpoints run on. Raises `TextEngineMissing`."""
        from transformers import AutoTokenizer

        folder = Path(str(sys.modules[type(self).__module__].__file__)).parent / self.weights
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._engine = self._opened(folder)

    def _opened(self, folder: Path) -> TextEngine:
        import torch

        has_vllm = importlib.util.find_spec("vllm") is not None
        chosen = choose(EngineChoice(self.engine), has_vllm=has_vllm, has_gpu=torch.cuda.is_available())
        if chosen is EngineChoice.VLLM:
            from skyloom.recipes.generation.by_vllm import VllmText

            return VllmText(folder, self.cache_tokens)
        from skyloom.recipes.generation.by_transformers import TransformersText

        return TransformersText(folder, self._tokenizer, self.cache_tokens)

    @endpoint(timeout_s=120)
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
    ) -> AsyncIterator[Part]:
        """Answer a conversation, by the model's own chat template."""
        try:
            ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template is a program of the model's; what it raises is about the messages
            raise BadRequest(f"The messages do not fit the model's template: {error}") from error
        likely = (num_logprobs, presence_penalty, frequency_penalty, logit_bias, json_schema)
        wish = Sampling(0, temperature, top_p, seed, *likely)
        async with contextlib.aclosing(self._answers(ids, max_tokens, wish, stop, num_answers)) as parts:
            async for part in parts:
                yield part

    @endpoint(timeout_s=120)
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
    ) -> AsyncIterator[Part]:
        """Continue a text."""
        ids = self._tokenizer(prompt).input_ids
        likely = (num_logprobs, presence_penalty, frequency_penalty, logit_bias)
        wish = Sampling(0, temperature, top_p, seed, *likely)
        async with contextlib.aclosing(self._answers(ids, max_tokens, wish, stop, num_answers)) as parts:
            async for part in parts:
                yield part

    def _answers(
        self, ids: list[int], max_tokens: int | None, wish: Sampling, stop: list[str] | None, num_answers: int
    ) -> AsyncGenerator[Part, None]:
        """The parts of as many answers as were asked for. Raises `BadRequest`."""
        undone = sorted(asked(wish) & self._engine.unable)
        if undone:
            raise BadRequest(f"{undone[0]!r} is not done by this service's engine.", next_action="Leave it out.")
        if wish.json_schema is not None:
            try:
                check_schema(wish.json_schema)
            except SchemaUnfit as error:
                raise BadRequest(f"The schema of response_format cannot be followed: {error}.") from error
        wish = wish._replace(max_tokens=self._fitting(ids, max_tokens))
        wishes = [wish._replace(seed=seed_of(wish.seed, index)) for index in range(num_answers)]
        return together([self._answer(ids, one, stop) for one in wishes])

    async def _answer(self, ids: list[int], wish: Sampling, stop: list[str] | None) -> AsyncGenerator[Part, None]:
        words, grown = StopWords(stop or ()), None
        kept: list[dict[str, Any]] = []
        try:
            async with contextlib.aclosing(self._engine.generate(ids, wish)) as growing:
                async for grown in growing:
                    ready = words.feed(grown.text) + (words.rest() if grown.ending else "")
                    kept += grown.tokens
                    if ready:
                        yield {"text": ready, "logprobs": kept} if wish.num_likely is not None else ready
                        kept = []
                    if words.is_stopped:
                        break
        except WishUnfit as error:
            raise BadRequest(f"The model's engine refuses the request: {error}") from error
        assert grown is not None
        reason = "stop" if words.is_stopped else grown.ending
        yield {"finish_reason": reason, "prompt_tokens": len(ids), "completion_tokens": grown.num_tokens}

    def _fitting(self, ids: list[int], max_tokens: int | None) -> int:
        """The tokens that may be made. Raises `BadRequest` when prompt and answer have no room together."""
        context = self._engine.context_tokens
        room = context - len(ids)
        if room < 1 or not ids or (max_tokens or 1) > room:
            asked = f" and {max_tokens} are asked for" if max_tokens else ""
            raise BadRequest(
                f"This model's maximum context length is {context} tokens; the prompt has {len(ids)}{asked}.",
                next_action="Shorten the prompt, or ask for fewer tokens.",
            )
        return max_tokens or min(self.default_max_tokens, room)

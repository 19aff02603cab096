"""A language model as a service that answers the OpenAI API, by transformers with continuous batching. Needs transformers and torch.

    from skyloom.recipes.text_generation import TextGeneration

    class Chat(TextGeneration):
        weights = "model"            # a folder beside the file: config.json, *.safetensors, tokenizer files
        files = ("model/*",)

Requests join and leave the running batch token by token, so a long answer holds up no short one. Weights are safetensors; code in a
model's folder is never run, and nothing is fetched from anywhere.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

from skyloom.inference.services.stopping import StopWords
from skyloom.sdk.service import BadRequest, Service, endpoint

Part = str | dict[str, Any]
_UNFINISHED = "\ufffd"  # what a tokenizer gives for half of a character
_PAGE_TOKENS = 256


class TextGeneration(Service):
    """Base of services that generate text.

    Attributes:
        weights: folder of the model, beside the service's file.
        cache_tokens: tokens of all running requests together, prompts included, that the cache of keys and values has room for.
        default_max_tokens: of an answer, when the client does not say.
    """

    weights: ClassVar[str] = "model"
    cache_tokens: ClassVar[int] = 16_384
    default_max_tokens: ClassVar[int] = 256

    def setup(self) -> None:
        """Load the model and start its batching."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

        folder = Path(str(sys.modules[type(self).__module__].__file__)).parent / self.weights
        safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **safely).eval()
        if torch.cuda.is_available():
            model = model.to("cuda")
        self._positions = int(getattr(model.config, "max_position_embeddings", self.cache_tokens))
        # Processors exist for what stands here; each request then brings values of its own.
        sampling = GenerationConfig(
            do_sample=True,
            temperature=0.9999,
            top_k=model.config.vocab_size,
            top_p=0.9999,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=model.generation_config.pad_token_id,
        )
        batching = ContinuousBatchingConfig(
            page_size=_PAGE_TOKENS, num_blocks=max(2, self.cache_tokens // _PAGE_TOKENS), per_request_processors=True
        )
        self._batches = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=batching)
        self._batches.start()
        self._last = 0

    @endpoint(timeout_s=120)
    async def chat(
        self,
        messages: list[dict[str, str]],
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: list[str] | None = None,
    ) -> AsyncIterator[Part]:
        """Answer a conversation, by the model's own chat template."""
        try:
            ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template is a program of the model's; what it raises is about the messages
            raise BadRequest(f"The messages do not fit the model's template: {error}") from error
        async for part in self._generate(ids, max_tokens, temperature, top_p, stop):
            yield part

    @endpoint(timeout_s=120)
    async def complete(
        self,
        prompt: str,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: list[str] | None = None,
    ) -> AsyncIterator[Part]:
        """Continue a text."""
        async for part in self._generate(self._tokenizer(prompt).input_ids, max_tokens, temperature, top_p, stop):
            yield part

    async def _generate(
        self, ids: list[int], max_tokens: int | None, temperature: float, top_p: float, stop: list[str] | None
    ) -> AsyncIterator[Part]:
        limit = self._fitting(ids, max_tokens)
        greedy = {"top_k": 1} if temperature == 0 else {"temperature": temperature, "top_p": top_p}
        self._last += 1
        request, heard = f"request-{self._last}", asyncio.Queue[Any]()
        self._batches.register_result_handler(request, heard.put_nowait)
        words, num_fed, output = StopWords(stop or ()), 0, None
        try:
            if self._batches.add_request(ids, request, max_new_tokens=limit, streaming=True, **greedy) is None:
                raise RuntimeError("the model takes no requests any more")
            while output is None or not output.is_finished():
                output = await heard.get()
                if output.error:
                    raise RuntimeError(f"the model failed: {output.error}")
                text = self._text(output.generated_tokens)
                whole = text if output.is_finished() else text.rstrip(_UNFINISHED)
                ready = words.feed(whole[num_fed:]) + (words.rest() if output.is_finished() else "")
                num_fed = len(whole)
                if ready:
                    yield ready
                if words.is_stopped:
                    break
        finally:
            if output is None or not output.is_finished():
                self._batches.cancel_request(request)
        num_made = len(output.generated_tokens)
        reason = "length" if num_made >= limit and not words.is_stopped else "stop"
        yield {"finish_reason": reason, "prompt_tokens": len(ids), "completion_tokens": num_made}

    def _fitting(self, ids: list[int], max_tokens: int | None) -> int:
        """The tokens that may be made. Raises `BadRequest` when prompt and answer have no room together."""
        context = min(self._positions, self.cache_tokens)
        room = context - len(ids)
        if room < 1 or not ids or (max_tokens or 1) > room:
            asked = f" and {max_tokens} are asked for" if max_tokens else ""
            raise BadRequest(
                f"This model's maximum context length is {context} tokens; the prompt has {len(ids)}{asked}.",
                next_action="Shorten the prompt, or ask for fewer tokens.",
            )
        return max_tokens or min(self.default_max_tokens, room)

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

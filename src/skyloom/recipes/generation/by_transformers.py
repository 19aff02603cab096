"""transformers with its own continuous batching."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from skyloom.inference.services.sampling import Sampling
from skyloom.recipes.generation.seam import SPECIAL, Grown

_UNFINISHED = "\ufffd"  # what a tokenizer gives for half of a character
_PAGE_TOKENS = 256


class TransformersText:
    """A causal model of transformers, on the GPU where there is one. See `TextEngine`."""

    unable = frozenset(SPECIAL)

    def __init__(self, folder: Path, tokenizer: Any, cache_tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
        ).eval()
        if torch.cuda.is_available():
            model = model.to("cuda")
        positions = int(getattr(model.config, "max_position_embeddings", cache_tokens))
        self.context_tokens = min(positions, cache_tokens)
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
            page_size=_PAGE_TOKENS, num_blocks=max(2, cache_tokens // _PAGE_TOKENS), per_request_processors=True
        )
        self._tokenizer = tokenizer
        self._batches = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=batching)
        self._batches.start()
        self._last = 0

    async def generate(self, prompt: Sequence[int], wish: Sampling) -> AsyncGenerator[Grown, None]:
        """See `TextEngine`."""
        chances = {"temperature": wish.temperature, "top_p": wish.top_p} if wish.temperature else {"top_k": 1}
        self._last += 1
        request, heard = f"request-{self._last}", asyncio.Queue[Any]()
        self._batches.register_result_handler(request, heard.put_nowait)
        num_fed, output = 0, None
        try:
            added = self._batches.add_request(
                list(prompt), request, max_new_tokens=wish.max_tokens, streaming=True, **chances
            )
            if added is None:
                raise RuntimeError("the model takes no requests any more")
            while output is None or not output.is_finished():
                output = await heard.get()
                if output.error:
                    raise RuntimeError(f"the model failed: {output.error}")
                num_tokens = len(output.generated_tokens)
                text = str(self._tokenizer.decode(output.generated_tokens, skip_special_tokens=True))
                whole = text if output.is_finished() else text.rstrip(_UNFINISHED)
                ending = ("length" if num_tokens >= wish.max_tokens else "stop") if output.is_finished() else ""
                yield Grown(whole[num_fed:], num_tokens, ending=ending)
                num_fed = len(whole)
        finally:
            if output is None or not output.is_finished():
                self._batches.cancel_request(request)

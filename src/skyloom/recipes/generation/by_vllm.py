"""vLLM: continuous batching with paged memory, in processes of its own that end with this one."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from skyloom.inference.services.reaping import end_children_with_us
from skyloom.inference.services.sampling import Sampling
from skyloom.recipes.generation.seam import Grown, WishUnfit
from skyloom.settings import tell_libraries

_BLOCK_TOKENS = 128  # the largest block of its cache
_NUM_AT_ONCE = 64
_MAX_LIKELY = 20
_LOOK_S = 1.0


class VllmText:
    """A folder of transformers in vLLM's asynchronous engine, on a GPU where there is one. See `TextEngine`.

    Made on a running event loop, which it stays on. Nothing is fetched and no code of the model's folder is run.

    Args:
        cache_tokens: tokens of all running requests together that its cache has room for.
    """

    unable: frozenset[str] = frozenset()

    def __init__(self, folder: Path, cache_tokens: int) -> None:
        tell_libraries(
            HF_HUB_OFFLINE="1",
            VLLM_NO_USAGE_STATS="1",
            VLLM_LOGGING_LEVEL="WARNING",
            VLLM_WORKER_MULTIPROC_METHOD="spawn",  # a fork of a process that looked for GPUs cannot use them
        )
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError

        self._tokens_input, self._dead, self._refused = tokens_input, EngineDeadError, (VLLMClientError, ValueError)
        self._params, self._structured, self._delta = SamplingParams, StructuredOutputsParams, RequestOutputKind.DELTA
        config = json.loads((folder / "config.json").read_bytes())
        positions = int(config.get("max_position_embeddings") or cache_tokens)
        self.context_tokens = min(positions, cache_tokens)
        end_children_with_us()
        self._engine: Any = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(folder),
                load_format="safetensors",
                dtype=dtype_of(config),  # its own "auto" halves the precision of 32-bit weights
                trust_remote_code=False,
                max_model_len=self.context_tokens,
                max_num_seqs=_NUM_AT_ONCE,
                max_logprobs=_MAX_LIKELY,
                kv_cache_memory_bytes=cache_bytes(config, cache_tokens + _NUM_AT_ONCE * _BLOCK_TOKENS),
                disable_log_stats=True,
            )
        )
        self._last = 0
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def generate(self, prompt: Sequence[int], wish: Sampling) -> AsyncGenerator[Grown, None]:
        """See `TextEngine`."""
        self._last += 1
        num_tokens = 0
        try:
            asked = self._tokens_input(prompt_token_ids=list(prompt))
            coming = self._engine.generate(asked, self._sampling(wish), f"request-{self._last}")
            async with contextlib.aclosing(coming):  # gives up what still runs
                async for output in coming:
                    (made,) = output.outputs
                    num_tokens += len(made.token_ids)
                    tokens = _told(made) if wish.num_likely is not None else ()
                    yield Grown(made.text, num_tokens, tokens, _ending(made.finish_reason))
        except self._dead:
            _end()
        except self._refused as error:  # the library's checks of a request come before its first token
            if num_tokens:
                raise
            raise WishUnfit(str(error)) from error

    async def _watch(self) -> None:
        while not self._engine.errored:
            await asyncio.sleep(_LOOK_S)
        _end()

    def _sampling(self, wish: Sampling) -> Any:
        more: dict[str, Any] = {}
        if wish.json_schema is not None:
            more["structured_outputs"] = self._structured(json=wish.json_schema)
        if wish.logit_bias:
            more["logit_bias"] = {int(token): bias for token, bias in wish.logit_bias.items()}
        return self._params(
            max_tokens=wish.max_tokens,
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed,
            logprobs=wish.num_likely,
            presence_penalty=wish.presence_penalty or 0.0,
            frequency_penalty=wish.frequency_penalty or 0.0,
            output_kind=self._delta,
            **more,
        )


def _end() -> NoReturn:
    """The engine's processes are gone; whoever waits is told by the data plane, which starts this process again."""
    print("vLLM's engine has ended; the service's process ends with it", file=sys.stderr, flush=True)
    os._exit(1)


def cache_bytes(config: dict[str, Any], num_tokens: int) -> int:
    """Memory for the keys and values of so many tokens, by a model's ``config.json``."""
    heads = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    kept = int(config.get("num_key_value_heads") or heads)
    size = 4 if dtype_of(config) == "float32" else 2
    return 2 * int(config["num_hidden_layers"]) * kept * head_size * size * num_tokens


def dtype_of(config: dict[str, Any]) -> str:
    """What a model's weights are, by its ``config.json``."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _ending(reason: str | None) -> str:
    return "" if reason is None else ("length" if reason == "length" else "stop")


def _told(made: Any) -> tuple[dict[str, Any], ...]:
    """Each new token with the likeliest ones in its place, in their order."""
    found = []
    for token, chances in zip(made.token_ids, made.logprobs or (), strict=False):
        ordered = sorted(chances.values(), key=lambda one: one.rank)
        found.append({**_worded(chances[token]), "top_logprobs": [_worded(one) for one in ordered]})
    return tuple(found)


def _worded(one: Any) -> dict[str, Any]:
    text = one.decoded_token or ""
    return {"token": text, "logprob": float(one.logprob), "bytes": list(text.encode())}

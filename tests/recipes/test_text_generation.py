"""A tiny language model with random weights, served with continuous batching and asked by OpenAI's own client."""

import asyncio
import importlib.util

import pytest

from tests.inference.services.workplace import write_service
from tests.inference.serving import TOKEN, running

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
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2, pad_token_id=2)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([tokenizer("w1 w2 w3").input_ids])
    said = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 3:]
    return tokenizer.decode(said, skip_special_tokens=True)


class Chat(TextGeneration):
    cache_tokens = 2_048

    def setup(self) -> None:
        self.expected = write_model(Path(__file__).parent / "model")
        super().setup()

    @skyloom.endpoint
    def alone(self) -> str:
        return self.expected
"""


@pytest.mark.slow
def test_model_answers_as_it_does_alone_while_others_are_answered_too(tmp_path) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers: pip install 'skyloom[text]'")
    openai = pytest.importorskip("openai")
    (tmp_path / "bundle").mkdir()
    write_service(tmp_path / "bundle", SOURCE, "Chat")

    async def talk(base: str, expected: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=TOKEN, max_retries=0) as client:

            async def one(content: str, **more):
                messages = [{"role": "user", "content": content}]
                return await client.chat.completions.create(
                    model="toy", messages=messages, **{"max_tokens": 6, "temperature": 0, **more}
                )

            several = await asyncio.gather(*(one("w1 w2 w3") for _ in range(4)), one("w9 w8", max_tokens=20))
            assert [made.choices[0].message.content for made in several[:4]] == [expected] * 4
            assert several[0].usage.prompt_tokens == 3 and several[4].usage.completion_tokens <= 20
            parts = [part async for part in await one("w1 w2 w3", stream=True)]
            assert "".join(part.choices[0].delta.content or "" for part in parts) == expected
            word = expected.split()[2]
            assert (await one("w1 w2 w3", stop=[word])).choices[0].message.content == expected.partition(word)[0]
            made = await client.completions.create(model="toy", prompt="w5", max_tokens=3, temperature=1.0)
            assert made.choices[0].finish_reason in ("length", "stop")
            with pytest.raises(openai.APIStatusError, match="maximum context length is 128 tokens"):
                await one("w1 " * 200)

    with running(tmp_path) as (_, client, _):
        asyncio.run(talk(str(client.base_url), client.post("/alone").json()))

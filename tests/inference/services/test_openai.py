"""The OpenAI API on a service of one's own, asked by OpenAI's own client, unmodified."""

import httpx
import pytest

from tests.inference.services.workplace import write_service
from tests.inference.serving import HEADERS, TOKEN, running

openai = pytest.importorskip("openai")

SOURCE = """
from collections.abc import Iterator
from typing import Any
import skyloom

class Parrot(skyloom.Service):
    @skyloom.endpoint
    def chat(self, messages: list[dict[str, str]], max_tokens: int = 100, stop: list[str] = []) -> Iterator[Any]:
        words = messages[-1]["content"].split()
        if "boom" in words:
            yield "bo"
            raise RuntimeError("no more")
        if "odd" in words:
            yield 3
        for word in words[:max_tokens]:
            if word in stop:
                break
            yield word + " "
        reason = "length" if len(words) > max_tokens else "stop"
        yield {"finish_reason": reason, "prompt_tokens": len(words), "completion_tokens": min(len(words), max_tokens)}

    @skyloom.endpoint
    def complete(self, prompt: str) -> Iterator[str]:
        yield from ("once ", prompt)

    @skyloom.endpoint
    def embed(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), 0.5] for text in texts]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parrot")
    (folder / "bundle").mkdir()
    write_service(folder / "bundle", SOURCE, "Parrot")
    with running(folder) as (_, client, _):
        yield str(client.base_url)


@pytest.fixture
def client(base):
    with openai.OpenAI(base_url=f"{base}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


def say(content: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]


def test_models_are_listed(client) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").object == "model"


def test_chat_answers_whole_with_its_reason_and_counts(client) -> None:
    made = client.chat.completions.create(model="toy", messages=say("one two three"), max_tokens=2)
    assert made.choices[0].message.content == "one two "
    assert made.choices[0].finish_reason == "length"
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (3, 2, 5)
    notes = {"user": "me", "metadata": {"a": "b"}, "parallel_tool_calls": True}
    stopped = client.chat.completions.create(model="toy", messages=say("one two three"), stop="two", **notes)
    assert stopped.choices[0].message.content == "one "


def test_chat_streams_chunks_that_make_the_answer(client) -> None:
    chunks = list(client.chat.completions.create(model="toy", messages=say("one two three"), stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three "
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_and_embeddings_answer(client) -> None:
    assert client.completions.create(model="toy", prompt="upon").choices[0].text == "once upon"
    streamed = client.completions.create(model="toy", prompt="upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "once upon"
    for encoding in ("float", "base64"):
        made = client.embeddings.create(model="toy", input=["a", "bcd"], encoding_format=encoding)
        assert [item.index for item in made.data] == [0, 1]
    assert client.embeddings.create(model="toy", input="abcd").data[0].embedding == [4.0, 0.5]


def test_errors_come_as_the_clients_own(client, base) -> None:
    with pytest.raises(openai.NotFoundError, match="No model 'gpt'"):
        client.chat.completions.create(model="gpt", messages=say("x"))
    with pytest.raises(openai.BadRequestError, match="more than text"):
        picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": picture}])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="toy", messages=say("x"), temperature=9)
    with pytest.raises(openai.InternalServerError, match="no more"):
        client.chat.completions.create(model="toy", messages=say("boom"))
    with pytest.raises(openai.InternalServerError, match="no text"):
        client.chat.completions.create(model="toy", messages=say("odd"))
    with pytest.raises(openai.APIError, match="no more"):
        list(client.chat.completions.create(model="toy", messages=say("boom"), stream=True))
    stranger = openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError, match="No such model"):
        client.models.retrieve("gpt")
    for field, value in (("n", 2), ("seed", 1), ("response_format", {"type": "json_object"}), ("tools", [{}])):
        with pytest.raises(openai.BadRequestError, match=field) as raised:
            client.chat.completions.create(model="toy", messages=say("x"), **{field: value})
        assert raised.value.param == field
    for field, value in (("top_k", 5), ("reasoning_effort", "low"), ("temperature", 9), ("logit_bias", {"x": 1})):
        answer = httpx.post(f"{base}/v1/chat/completions", headers=HEADERS, json={"messages": say("x"), field: value})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == field
    hostile = (
        b'"response_format":{"type":"json_schema","json_schema":{"schema":{"a":"\xff"}}}',
        b'"x":' + b"[" * 100_000,
    )
    for more in hostile:
        content = b'{"messages":[{"role":"user","content":"x"}],' + more + b"}"
        headers = {**HEADERS, "content-type": "application/json"}
        assert httpx.post(f"{base}/v1/chat/completions", headers=headers, content=content).status_code == 400
    assert httpx.get(f"{base}/v1/chat/completions", headers=HEADERS).status_code == 405
    assert httpx.post(f"{base}/v1/audio", headers=HEADERS, json={}).status_code in (404, 405)

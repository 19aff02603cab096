"""Raw in, answer out: rows by their names, pictures, MLflow's scoring; and the document that describes it all."""

import base64
import io
import json
import struct
import zlib

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from skyloom.inference.pictures import PictureReader
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.rooms.registry.bundle import (
    Datatype,
    ImageFit,
    ImageInput,
    ImageLayout,
    ModelKind,
    Signature,
    TensorSpec,
)
from tests.inference.serving import INFER, graph, oracle, running, toy_rows, write_bundle

LABELS = ("cat", "dog", "emu")
COLUMNS = ("age", "city", "fare", "kept")
ENCODING = msgspec.json.encode(
    [{"name": name, "values": ["Rome", "Paris"] if name == "city" else []} for name in COLUMNS]
)
ROW = {"age": 3, "city": "Paris", "fare": 2.5, "kept": True}
NUMBERS = [3, 1, 2.5, 1]


@pytest.fixture(scope="module")
def tabular(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    write_bundle(folder / "bundle", files={"encoding.json": ENCODING}, labels=LABELS, columns=COLUMNS)
    with running(folder) as (_, client, _):
        yield client, folder


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A model that says the mean of each channel of a picture of 2 x 3."""
    folder = tmp_path_factory.mktemp("seeing")
    signature = Signature(
        inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 3, 2, 3)),),
        outputs=(TensorSpec(name="means", datatype=Datatype.FP32, shape=(-1, 3)),),
    )
    model = graph(
        [helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0)],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 2, 3])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3])],
    )
    image = ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST, scale=1 / 255, mean=(0.5,), deviation=(0.5,))
    write_bundle(folder / "bundle", model, signature, labels=("red", "green", "blue"), image=image)
    with running(folder, picture_urls=True) as (_, client, _):
        yield client


def best(folder, rows: np.ndarray) -> str:
    return LABELS[int(oracle(folder / "bundle", rows.astype(np.float32))[0].argmax())]


def test_one_row_by_its_columns_is_answered_with_its_label(tabular):
    client, folder = tabular
    answer = client.post("/predict", json=ROW)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    scores = oracle(folder / "bundle", np.array([NUMBERS], np.float32))[0]
    assert np.allclose(told["outputs"]["scores"], scores, atol=1e-6)
    assert told["label"] == best(folder, np.array([NUMBERS]))
    assert told["score"] == pytest.approx(float(scores.max()), abs=1e-6)
    assert told["prediction_id"] == answer.headers["skyloom-prediction-id"]


def test_many_rows_are_answered_one_by_one_in_every_form(tabular):
    client, folder = tabular
    rows = [ROW, {**ROW, "age": 9}, {**ROW, "city": "Rome"}]
    wanted = client.post("/predict", json=rows).json()["predictions"]
    assert [one["label"] for one in wanted] == [
        best(folder, np.array([numbers])) for numbers in (NUMBERS, [9, 1, 2.5, 1], [3, 0, 2.5, 1])
    ]
    assert client.post("/predict", json={"rows": rows}).json()["predictions"] == wanted
    assert client.post("/predict", json=[NUMBERS, [9, 1, 2.5, 1], [3, 0, 2.5, 1]]).json()["predictions"] == wanted


def test_missing_values_and_unknown_texts_are_missing_as_in_training(tabular):
    client, _ = tabular
    for row in ({**ROW, "age": None}, {**ROW, "city": "Oslo"}, {**ROW, "city": None}):
        assert client.post("/predict", json=row).json()["outputs"]["scores"] == [None] * 3


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({key: ROW[key] for key in COLUMNS if key != "fare"}, "'fare'"),
        ({**ROW, "more": 1}, "'more'"),
        ({**ROW, "age": "old"}, "'age'"),
        ({**ROW, "age": [1]}, "row"),
        ([], "rows"),
        ({"rows": []}, "rows"),
        ({"rows": 1}, "'rows'"),
        ([1, 2, 3, 4], "'x'"),
        ([[1, 2, 3]], "'x'"),
        ([ROW, [1, 2, 3, 4]], "row"),
        ("age", "row"),
        (5, "row"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_name(tabular, content, name):
    answer = tabular[0].post("/predict", json=content)
    assert answer.status_code == 400, answer.text
    assert name in answer.json()["error"]


MLFLOW = {
    "split": {
        "dataframe_split": {"columns": [*reversed(COLUMNS)], "data": [[True, 2.5, "Paris", 3], [True, 1, "Rome", 4]]}
    },
    "records": {"dataframe_records": [ROW, {**ROW, "fare": 1, "city": "Rome", "age": 4}], "params": {}},
    "instances": {"instances": [NUMBERS, [4, 0, 1, 1]]},
    "inputs": {"inputs": [NUMBERS, [4, 0, 1, 1]]},
    "named inputs": {"inputs": {"age": [3, 4], "city": ["Paris", "Rome"], "fare": [2.5, 1], "kept": [True, True]}},
}


@pytest.mark.parametrize("form", list(MLFLOW))
def test_mlflow_forms_say_the_same(tabular, form):
    client, folder = tabular
    answer = client.post("/invocations", json=MLFLOW[form])
    assert answer.status_code == 200, answer.text
    wanted = oracle(folder / "bundle", np.array([NUMBERS, [4, 0, 1, 1]], np.float32))
    assert np.allclose(answer.json()["predictions"], wanted, atol=1e-6)


def test_mlflow_csv_says_the_same(tabular):
    client, folder = tabular
    content = 'city,age,"fare",kept\r\n"Paris",3,2.5,1\r\nRome,4,1e0,1\r\n\r\n'
    answer = client.post("/invocations", content=content, headers={"content-type": "text/csv; charset=utf-8"})
    assert answer.status_code == 200, answer.text
    wanted = oracle(folder / "bundle", np.array([NUMBERS, [4, 0, 1, 1]], np.float32))
    assert np.allclose(answer.json()["predictions"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"rows": []},
        {"instances": [NUMBERS], "inputs": [NUMBERS]},
        {"instances": [NUMBERS], "params": {"a": 1}},
        {"dataframe_split": {"columns": ["age", "age"], "data": []}},
        {"dataframe_split": {"columns": list(COLUMNS), "data": [[1]]}},
        {"dataframe_split": {"data": []}},
        {"dataframe_records": []},
        {"dataframe_records": [{**ROW, "fare": {}}]},
        {"inputs": {"age": [1], "city": []}},
        {"inputs": {}},
        {"instances": 5},
        [],
    ],
)
def test_mlflow_refuses_what_is_no_table(tabular, content):
    answer = tabular[0].post("/invocations", json=content)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "content", ["", "a", "age,age\n1,2", "age,city\n1", 'age\n"1', "\xff", "age,city,fare,kept\ninf,Rome,1,1"]
)
def test_mlflow_refuses_broken_csv(tabular, content):
    answer = tabular[0].post("/invocations", content=content.encode("latin-1"), headers={"content-type": "text/csv"})
    assert answer.status_code == 400, answer.text


CELLS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=4)
)
ROWS = st.dictionaries(st.sampled_from([*COLUMNS, "x", "b64", "rows"]), CELLS, max_size=5) | CELLS
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "dataframe_split": st.fixed_dictionaries(
            {"columns": CELLS | st.just(list(COLUMNS)), "data": st.lists(ROWS, max_size=3)}
        ),
        "dataframe_records": st.lists(ROWS, max_size=3),
        "instances": st.lists(ROWS, max_size=3),
        "inputs": ROWS,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ROWS | st.lists(ROWS, max_size=3) | TABLES, st.sampled_from(["/predict", "/invocations", "/v2/models/toy/generate"])
)
def test_any_json_is_answered_without_a_server_error(tabular, value, path):
    answer = tabular[0].post(path, content=json.dumps(value).encode(), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v2/models/toy/generate", INFER, "/v2/logging"])
@pytest.mark.parametrize(
    "content", ['{"x":%s}', "[%s]", '{"inputs":%s}', '{"parameters":%s}', '{"rows":%s}', '{"instances":%s}']
)
def test_json_of_ten_thousand_levels_is_refused(tabular, path, content):
    deep = content % ("[" * 10_000 + "]" * 10_000)
    answer = tabular[0].post(path, content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 403), answer.text


def test_ping_and_health_need_no_token_and_the_version_does(tabular):
    client, _ = tabular
    with httpx.Client(base_url=client.base_url, trust_env=False, verify=False) as stranger:
        assert stranger.get("/ping").status_code == stranger.get("/health").status_code == 200
        for path in ("/version", "/openapi.json"):
            assert stranger.get(path).status_code == 401
        for path in ("/predict", "/invocations"):
            assert stranger.post(path, json=ROW).status_code == 401
    assert client.get("/version").text.count(".") >= 1


# -- pictures ---------------------------------------------------------------------------------------------------------------

PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def means(pixels: np.ndarray) -> list[float]:
    return ((pixels / 255 - 0.5) / 0.5).mean(axis=(0, 1)).tolist()


def test_a_picture_as_the_body_is_answered_with_its_label(seeing):
    answer = seeing.post("/predict", content=picture(PIXELS), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "blue"
    assert np.allclose(answer.json()["outputs"]["means"], means(PIXELS), atol=1e-5)


def test_a_picture_of_another_kind_and_size_is_made_to_fit(seeing):
    content = picture(np.full((40, 50), 200, np.uint8), "JPEG")
    answer = seeing.post("/predict", content=content, headers={"content-type": "image/jpeg"})
    assert np.allclose(answer.json()["outputs"]["means"], means(np.full((1, 1, 3), 200)), atol=0.02)


def test_pictures_in_rows_are_answered_one_by_one(seeing):
    text = base64.b64encode(picture(PIXELS)).decode()
    rows = [{"image": {"b64": text}}, {"b64": text}]
    told = seeing.post("/predict", json=rows).json()["predictions"]
    assert [one["label"] for one in told] == ["blue", "blue"]
    assert seeing.post("/predict", json=rows[0]).json()["outputs"] == told[0]["outputs"]
    tensor = ((PIXELS.transpose(2, 0, 1) / 255 - 0.5) / 0.5).tolist()
    assert np.allclose(
        seeing.post("/predict", json={"image": tensor}).json()["outputs"]["means"], means(PIXELS), atol=1e-5
    )


def test_a_picture_in_a_data_address_is_one_that_came_along(seeing):
    address = "data:image/png;base64," + base64.b64encode(picture(PIXELS)).decode()
    told = seeing.post("/predict", json=[{"url": address}, {"image": {"url": address}}]).json()["predictions"]
    assert [one["label"] for one in told] == ["blue", "blue"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/a.png", "not an address of the public internet"),
        ("http://169.254.169.254/latest/meta-data", "not an address of the public internet"),
        ("http://[::1]/", "not an address of the public internet"),
        ("file:///etc/passwd", "only http and https"),
        ("data:image/png", "no content"),
        ("data:image/png;base64,?", "base64"),
        ("https://example.org/" + "x" * 5_000, "too long"),
    ],
)
def test_an_address_that_leads_inside_or_nowhere_is_refused(seeing, url, words):
    answer = seeing.post("/predict", json={"url": url})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]
    assert "SKYLOOM_WEBHOOK" not in answer.text
    many = seeing.post("/predict", json=[{"url": "http://127.0.0.1/"}] * 9)
    assert many.status_code == 400 and "at most 8" in many.json()["error"]


def bomb() -> bytes:
    """A sound PNG of 900 million black pixels; packed line by line, since Pillow would hold a byte of each."""
    packer = zlib.compressobj(1)
    lines = b"".join(packer.compress(bytes(3_751 * 1_000)) for _ in range(30)) + packer.flush()
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", picture(PIXELS)[:-30], picture(PIXELS, "GIF"), bomb, b"<svg/>"],
    ids=["nothing", "head", "torn", "gif", "bomb", "svg"],
)
def test_what_is_no_picture_is_refused(seeing, content):
    sent = (
        content() if callable(content) else content
    )  # what takes a while to make is made by the test, not by who lists them
    answer = seeing.post("/predict", content=sent, headers={"content-type": "image/png"})
    assert answer.status_code == 400, answer.text
    assert "picture" in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [{"image": {"b64": "?"}}, {"b64": 1}, {"image": {"b64": "", "more": ""}}, [{"b64": ""}, [1]], [{"b64": ""}] * 40],
)
def test_rows_that_are_no_pictures_are_refused(seeing, content):
    assert seeing.post("/predict", json=content).status_code == 400


def test_a_model_that_takes_no_pictures_says_so(tabular):
    assert (
        tabular[0].post("/predict", content=picture(PIXELS), headers={"content-type": "image/png"}).status_code == 415
    )


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (ImageLayout.GREY, (-1, 4, 6)),
        (ImageLayout.CHANNELS_FIRST, (-1, 3, 4, 6)),
        (ImageLayout.CHANNELS_LAST, (-1, 4, 6, 4)),
    ],
)
@pytest.mark.parametrize("datatype", [Datatype.UINT8, Datatype.FP32, Datatype.FP16, Datatype.BF16, Datatype.INT64])
def test_every_layout_and_type_of_a_picture_fits_its_input(layout, shape, datatype):
    spec = TensorSpec(name="image", datatype=datatype, shape=shape)
    row = PictureReader(ImageInput(tensor="image", layout=layout), spec).read(picture(PIXELS))
    assert row.shape == (1, *shape[1:])


def test_a_crop_is_the_middle_and_a_stretch_is_all_of_it():
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    spec = TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 10, 10))
    read = {
        fit: PictureReader(ImageInput(tensor="image", layout=ImageLayout.GREY, fit=fit), spec).read(picture(wide))
        for fit in ImageFit
    }
    assert (read[ImageFit.CROP] == 255).all()
    assert not read[ImageFit.STRETCH][0, :, 0].any()


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (ImageInput(tensor="image", layout=ImageLayout.GREY), (-1, 3, 4, 6)),
        (ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST), (-1, 2, 4, 6)),
        (ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST, mean=(1, 2)), (-1, 3, 4, 6)),
        (ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST, deviation=(0,)), (-1, 3, 4, 6)),
    ],
)
def test_a_description_that_does_not_fit_is_refused(image, shape):
    with pytest.raises(BundleRefused, match="pictures"):
        PictureReader(image, TensorSpec(name="image", datatype=Datatype.FP32, shape=shape))


# -- the document -----------------------------------------------------------------------------------------------------------


def test_document_names_exactly_what_answers(tabular):
    client, _ = tabular
    told = client.get("/openapi.json").json()
    assert told["info"]["title"] == "toy 1"
    for path, methods in told["paths"].items():
        for method, described in methods.items():
            answer = client.request(method, path, json={} if "requestBody" in described else None)
            assert answer.status_code not in (404, 405, 415, 500), (method, path)
        assert client.request("PUT", path).status_code == 405, path
    assert {INFER, "/predict", "/invocations", "/ping", "/v2/models/toy/generate_stream"} <= told["paths"].keys()
    row = told["components"]["schemas"]["Row"]
    assert row["required"] == list(COLUMNS)
    names = [described["operationId"] for methods in told["paths"].values() for described in methods.values()]
    assert len(set(names)) == len(names)
    text = json.dumps(told)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in told["components"]["schemas"]


def test_regression_answers_a_prediction(tmp_path):
    write_bundle(tmp_path / "bundle", kind=ModelKind.REGRESSION)
    with running(tmp_path) as (_, client, _):
        told = client.post("/predict", json={"x": toy_rows(1)[0].tolist()}).json()
    assert told["prediction"] == told["outputs"]["scores"][0]

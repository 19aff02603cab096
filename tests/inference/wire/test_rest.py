import numpy as np

from tests.inference.serving import INFER, body, oracle, toy_rows


def test_infer_json_answers_what_onnxruntime_says(served):
    _, client, _, folder = served
    for count in (1, 2, 7, 64):
        rows = toy_rows(count, seed=count)
        answer = client.post(INFER, json=body(rows, id="mine"))
        assert answer.status_code == 200, answer.text
        output = answer.json()["outputs"][0]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [count, 3])
        assert np.allclose(np.reshape(output["data"], output["shape"]), oracle(folder / "bundle", rows), atol=1e-6)
        assert answer.json()["id"] == "mine"
        assert answer.headers["skyloom-prediction-id"].startswith("pred_1_")
        assert answer.json()["parameters"]["skyloom-prediction-id"] == answer.headers["skyloom-prediction-id"]

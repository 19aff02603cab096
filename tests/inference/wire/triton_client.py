"""Run by `test_tritonclient.py` in an environment of its own: what Triton's unmodified clients get from a replica, as JSON."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

MODEL = "toy"
ROWS = (np.arange(4000 * 4, dtype=np.float32).reshape(4000, 4) % 7) - 3
TEXTS = np.array([["a", "é"], ["", "日本" * 30], [b"x\x00y", "z"]], dtype=np.object_)
HALVES = np.array([[1.5, -2], [0, 65504], [3, 4]], dtype=np.float16)


def inputs(module, rows, **binary):
    count = len(rows)
    made = [
        module.InferInput("x", [count, 4], "FP32"),
        module.InferInput("text", [count, 2], "BYTES"),
        module.InferInput("half", [count, 2], "FP16"),
    ]
    for tensor, array in zip(made, (rows, cut(TEXTS, count), cut(HALVES, count)), strict=True):
        tensor.set_data_from_numpy(array, **({} if tensor.name() == "half" else binary))  # FP16 has no JSON there
    return made


def cut(array, count):
    return np.resize(array, (count, 2))


def checked(answer, rows) -> bool:
    count = len(rows)
    texts = cut(TEXTS, count)
    as_bytes = [[one if isinstance(one, bytes) else one.encode() for one in row] for row in texts]
    told = answer.as_numpy("same_text")
    got = [[one if isinstance(one, bytes) else one.encode() for one in row] for row in told]
    return bool(
        np.allclose(answer.as_numpy("doubled"), rows * 2)
        and got == as_bytes
        and (answer.as_numpy("same_half") == cut(HALVES, count)).all()
    )


def refused(call) -> str:
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "not refused"


def common(client, headers) -> dict:
    client.load_model(MODEL, headers=headers)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(MODEL, headers=headers),
        "other": refused(lambda: client.get_model_metadata("other", headers=headers)),
        "unload": refused(lambda: client.unload_model(MODEL, headers=headers)),
        "memory": refused(lambda: client.register_system_shared_memory("a", "/b", 64, headers=headers)),
        "trace": refused(
            lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}, headers=headers)
        ),
        "stranger": refused(lambda: client.get_model_metadata(MODEL)),
    }


def http(port: int, headers) -> dict:
    with over_http.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4) as client:
        told = common(client, headers)
        told["metadata"] = client.get_model_metadata(MODEL, headers=headers)
        told["server"] = client.get_server_metadata(headers=headers)
        told["config"] = client.get_model_config(MODEL, "1", headers=headers)
        told["index"] = client.get_model_repository_index(headers=headers)
        told["log"] = client.get_log_settings(headers=headers)
        told["trace_level"] = client.get_trace_settings(headers=headers)["trace_level"]

        def ask(rows, binary=True, wanted=(), **more):
            outputs = [over_http.InferRequestedOutput(name, binary_data=binary) for name in wanted]
            sent = inputs(over_http, rows, binary_data=binary)
            return client.infer(  # the client keeps what it adds to the headers
                MODEL, sent, outputs=outputs or None, headers=dict(headers), request_id="mine", **more
            )

        every = ("doubled", "same_text")
        answer = ask(ROWS[:3])
        told["binary"] = checked(answer, ROWS[:3]) and answer.get_response()["id"] == "mine"
        answer = ask(ROWS[:3], False, (*every,), model_version="1", timeout=5_000_000, parameters={"my": "own"})
        told["json"] = bool(np.allclose(answer.as_numpy("doubled"), ROWS[:3] * 2))
        told["json_text"] = [[str(one) for one in row] for row in answer.as_numpy("same_text")]
        told["packed"] = [
            checked(ask(ROWS, request_compression_algorithm=one, response_compression_algorithm=one), ROWS)
            for one in ("gzip", "deflate")
        ]
        waiting = [client.async_infer(MODEL, inputs(over_http, ROWS[:n]), headers=headers) for n in range(1, 20)]
        told["async"] = all(checked(one.get_result(), ROWS[:n]) for n, one in enumerate(waiting, 1))
        wrong = over_http.InferInput("x", [1, 5], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 5), np.float32))
        told["wrong"] = refused(lambda: client.infer(MODEL, [wrong], headers=headers))
        told["statistics"] = client.get_inference_statistics(MODEL, headers=headers)["model_stats"][0]
    return told


def grpc(port: int, headers) -> dict:
    with over_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        told = common(client, headers)
        told["metadata"] = client.get_model_metadata(MODEL, headers=headers, as_json=True)
        told["server"] = client.get_server_metadata(headers=headers, as_json=True)
        told["config"] = client.get_model_config(MODEL, headers=headers, as_json=True)["config"]
        told["index"] = client.get_model_repository_index(headers=headers, as_json=True)["models"]
        told["log"] = sorted(client.get_log_settings(headers=headers, as_json=True)["settings"])
        told["trace_level"] = client.get_trace_settings(headers=headers).settings["trace_level"].value[:]
        answer = client.infer(MODEL, inputs(over_grpc, ROWS[:3]), headers=headers, request_id="mine")
        told["binary"] = checked(answer, ROWS[:3]) and answer.get_response().id == "mine"
        told["packed"] = [
            checked(client.infer(MODEL, inputs(over_grpc, ROWS), headers=headers, compression_algorithm=one), ROWS)
            for one in ("gzip", "deflate")
        ]
        done: queue.Queue = queue.Queue()
        for count in range(1, 20):
            client.async_infer(
                MODEL, inputs(over_grpc, ROWS[:count]), lambda result, error: done.put((result, error)), headers=headers
            )
        came = [done.get(timeout=20) for _ in range(19)]
        told["async"] = all(
            error is None and checked(one, ROWS[: one.as_numpy("doubled").shape[0]]) for one, error in came
        )
        told["stream"] = stream(client, headers)
        told["statistics"] = client.get_inference_statistics(MODEL, headers=headers, as_json=True)["model_stats"][0]
    return told


def stream(client, headers) -> dict:
    came: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)), headers=headers)
    for number in range(50):
        client.async_stream_infer(MODEL, inputs(over_grpc, ROWS[: 1 + number % 3]), request_id=str(number))
    client.async_stream_infer("other", inputs(over_grpc, ROWS[:1]), request_id="wrong")
    client.async_stream_infer(MODEL, inputs(over_grpc, ROWS[:1]), request_id="last", enable_empty_final_response=True)
    got = [came.get(timeout=20) for _ in range(52)]
    client.stop_stream()
    right = [result for result, error in got if error is None]
    return {
        "ids": [result.get_response().id for result in right],
        "right": all(checked(result, ROWS[: result.as_numpy("doubled").shape[0]]) for result in right),
        "error": str(got[50][1]),
        "final": got[51][0].get_response().parameters["triton_final_response"].bool_param,
    }


if __name__ == "__main__":
    rest_port, grpc_port, token = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    shown = {"authorization": f"Bearer {token}"}
    print(json.dumps({"http": http(rest_port, dict(shown)), "grpc": grpc(grpc_port, dict(shown))}))

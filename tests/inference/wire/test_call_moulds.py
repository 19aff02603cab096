"""Messages that are read by what stood before earlier tensors: nobody can tell them from those that are read whole."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.inference.batcher import Ticket
from skyloom.inference.tensors import Call, Contract
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.call_moulds import AnswerMoulds, CallMoulds
from skyloom.inference.wire.calls import answer_of, call_of
from skyloom.inference.wire.grpc_framing import framed
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
    outputs=(
        TensorSpec(name="a", datatype=Datatype.FP32, shape=(-1, 3)),
        TensorSpec(name="t", datatype=Datatype.BYTES, shape=(-1, 1)),
    ),
)
PLANE = SimpleNamespace(contract=Contract(SIGNATURE, 64), plan=SimpleNamespace(model="toy", model_version="1"))


def message(rows: np.ndarray, **more) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="toy", raw_input_contents=[rows.tobytes()], **more)
    made.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    return made


def read(moulds: CallMoulds, made: pb.ModelInferRequest) -> tuple[Call, bool]:
    """The call, and whether it was found."""
    body = framed(made)
    found = moulds.find(body)
    if found is None:
        call = call_of(made, PLANE.contract)
        moulds.keep(body, made, call)
        return call, False
    return found, True


@tried(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "one", "two"]), st.booleans()), max_size=30))
def test_known_messages_are_read_as_unknown_ones_are(asked):
    moulds, random = CallMoulds(PLANE), np.random.default_rng(len(asked))
    for rows, name, one_output in asked:
        values = random.normal(size=(rows, 4)).astype(np.float32)
        made = message(values, id=name)
        if one_output:
            made.outputs.add(name="a")
        call, _ = read(moulds, made)
        whole = call_of(made, PLANE.contract)
        assert call.inputs[0].tobytes() == whole.inputs[0].tobytes() == values.tobytes()
        assert call[1:] == whole[1:]
        assert (call.inputs[0].shape, call.inputs[0].dtype) == (whole.inputs[0].shape, whole.inputs[0].dtype)


def test_third_message_of_a_kind_is_known():
    moulds = CallMoulds(PLANE)
    assert [read(moulds, message(np.full((1, 4), n, np.float32)))[1] for n in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    "unlike",
    [
        pb.ModelInferRequest(raw_input_contents=[bytes(16)], parameters={"n": pb.InferParameter(int64_param=1)}),
        pb.ModelInferRequest(raw_input_contents=[b""]),
        pb.ModelInferRequest(raw_input_contents=[bytes(8), bytes(8)]),
    ],
)
def test_messages_with_more_than_a_tensor_are_read_whole(unlike):
    moulds, call = CallMoulds(PLANE), call_of(message(np.zeros((1, 4), np.float32)), PLANE.contract)
    for _ in range(3):
        moulds.keep(framed(unlike), unlike, call)
        assert moulds.find(framed(unlike)) is None


def test_bytes_that_end_a_message_and_are_not_its_tensor_are_not_taken_for_it():
    # The id comes behind the tensor here, as protobuf allows, and ends with what the tensor holds.
    rows = np.frombuffer(b"abcdefghijklmnop", np.float32).reshape(1, 4)
    plain = message(rows).SerializeToString()
    written = plain + pb.ModelInferRequest(id="abcdefghijklmnop").SerializeToString()
    body = b"\0" + len(written).to_bytes(4, "big") + written
    made, moulds = pb.ModelInferRequest.FromString(written), CallMoulds(PLANE)
    for _ in range(4):
        moulds.keep(body, made, call_of(made, PLANE.contract))
        assert moulds.find(body) is None


def test_what_is_remembered_has_a_bound():
    moulds = CallMoulds(PLANE)
    for number in range(3_000):
        read(moulds, message(np.zeros((1 + number % 9, 4), np.float32), id=str(number)))
    assert len(moulds._once) <= 1_024
    assert not moulds._moulds
    for number in range(900):
        read(moulds, message(np.zeros((1 + number % 9, 4), np.float32), id=str(number // 30)))
    assert len(moulds._moulds) <= 128
    assert len(moulds._sizes) <= 4


@given(
    st.integers(1, 3), st.sampled_from(["", "mine"]), st.sampled_from([(0,), (1,), (0, 1), (1, 0)]), st.integers(1, 12)
)
def test_answers_are_those_of_the_protocols_own_writer(rows, client_id, places, digits):
    answers = AnswerMoulds(PLANE)
    for number in range(3):
        ticket = Ticket(Call((np.zeros((rows, 4), np.float32),), rows, places, client_id), 0.0, lambda _: None)
        ticket.outputs = [np.full((rows, 3), number / 3, np.float32), np.full((rows, 1), f"é{number}", object)]
        ticket.prediction_id = "pred_abc_" + str(number) * digits
        body = answers.write(ticket)
        assert body[:5] == b"\0" + (len(body) - 5).to_bytes(4, "big")
        assert pb.ModelInferResponse.FromString(body[5:]) == answer_of(ticket, PLANE)

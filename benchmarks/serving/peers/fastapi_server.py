"""FastAPI behind uvicorn, two workers, as its documentation has it; the model is called inline, which is quicker here than a thread."""

import os

import uvicorn
from fastapi import FastAPI, Request
from protocol import Loaded, inputs_of

app = FastAPI()
_model = Loaded()


@app.post("/infer")
async def infer(request: Request):
    return _model.answer(_model.run(inputs_of(await request.json())))


if __name__ == "__main__":
    uvicorn.run("fastapi_server:app", port=int(os.environ["PORT"]), workers=2, log_level="warning", access_log=False)

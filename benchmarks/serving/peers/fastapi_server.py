"""FastAPI behind uvicorn, two workers, as its documentation has it; the model is called inline, which is quicker here than a thread."""

import os

import uvicorn
from fastapi import FastAPI, Request
from protocol import answer_of, rows_of, session

app = FastAPI()
_session = session()


@app.post("/infer")
async def infer(request: Request):
    return answer_of(_session.run(None, {"x": rows_of(await request.json())})[0])


if __name__ == "__main__":
    uvicorn.run("fastapi_server:app", port=int(os.environ["PORT"]), workers=2, log_level="warning", access_log=False)

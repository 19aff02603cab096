"""MLflow's own server: an ONNX model of its format, `mlflow models serve` with two workers."""

import os
import sys
import tempfile

import mlflow.pyfunc
import onnx


class Infer(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        from protocol import Loaded

        self.loaded = Loaded()

    def predict(self, context, model_input, params=None):
        return self.loaded.run({"x": model_input.astype("float32")}).tolist()


if __name__ == "__main__":
    onnx.checker.check_model(onnx.load(os.environ["MODEL"]))
    folder = tempfile.mkdtemp(prefix="mlflow-") + "/model"
    mlflow.pyfunc.save_model(folder, python_model=Infer())
    words = ["models", "serve", "-m", folder, "-p", os.environ["PORT"], "-w", "2", "--env-manager", "local"]
    os.execvp("mlflow", ["mlflow", *words])
    sys.exit(1)

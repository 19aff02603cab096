// A gRPC client that shares no code with grpcio: sends many calls at once, small and large, and prints what came back.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const [port, token, proto] = process.argv.slice(2);
const { inference } = grpc.loadPackageDefinition(loader.loadSync(proto, { longs: Number, keepCase: true }));
const client = new inference.GRPCInferenceService(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": 2 ** 26,
  "grpc.default_compression_algorithm": Number(process.env.COMPRESSION || 0),
});
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);

function infer(rows, options) {
  const data = Float32Array.from({ length: rows * 4 }, (_, at) => (at % 7) - 3);
  const request = {
    model_name: "toy",
    inputs: [{ name: "x", datatype: "FP32", shape: [rows, 4] }],
    raw_input_contents: [Buffer.from(data.buffer)],
  };
  return new Promise((resolve) => {
    const call = client.ModelInfer(request, metadata, options || {}, (error, answer) => {
      const scores = answer && answer.raw_output_contents[0];
      resolve(error ? { code: error.code, why: error.details } : { rows: answer.outputs[0].shape[0], first: scores.readFloatLE(0) });
    });
    if (options && options.cancel) setTimeout(() => call.cancel(), 1);
  });
}

(async () => {
  const told = { small: [], large: [], late: null, refused: null };
  for (let round = 0; round < 5; round++) told.small.push(...(await Promise.all(Array.from({ length: 100 }, () => infer(1)))));
  told.large = await Promise.all([3000, 2500, 2000].map((rows) => infer(rows)));
  told.late = await infer(1, { deadline: Date.now() - 1000 });
  await Promise.all(Array.from({ length: 20 }, () => infer(4096, { cancel: true })));
  metadata.set("authorization", "Bearer wrong");
  told.refused = await infer(1);
  console.log(JSON.stringify(told));
  client.close();
})();

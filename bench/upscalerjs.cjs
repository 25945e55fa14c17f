// UpscalerJS for bench.peers: reads images from stdin and writes them three times as large.
//
//     NODE_PATH=data/peers/node_modules node bench/upscalerjs.cjs esrgan-slim
//
// An image is its width and height (uint32, little-endian) and its RGB samples. tfjs-node downloads
// its library when it is installed; WebAssembly, with SIMD and all CPUs, is what a browser has, too.
"use strict";
require("@tensorflow/tfjs-backend-wasm");
const tf = require("@tensorflow/tfjs-node"); // an alias of tfjs: see the Makefile
const Upscaler = require("upscaler/node");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const SCALE = 3;
const HEADER_BYTES = 8;
// As UpscalerJS's guide to performance has it: without patches, memory grows with the image.
const PATCHES = { patchSize: 64, padding: 6 };

async function* readImages() {
  let bytes = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    bytes = Buffer.concat([bytes, chunk]);
    while (bytes.length >= HEADER_BYTES) {
      const [width, height] = [bytes.readUInt32LE(0), bytes.readUInt32LE(4)];
      const end = HEADER_BYTES + width * height * 3;
      if (bytes.length < end) break;
      yield tf.tensor4d(new Uint8Array(bytes.subarray(HEADER_BYTES, end)), [1, height, width, 3]);
      bytes = bytes.subarray(end);
    }
  }
}

async function main(name) {
  await tf.setBackend("wasm");
  // Of tfjs without tfjs-node, only HTTP can load a model.
  const folder = path.join(process.env.NODE_PATH, "@upscalerjs", name, "models", `x${SCALE}`);
  const server = http.createServer((request, response) => {
    fs.createReadStream(path.join(folder, path.basename(request.url))).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const model = require(`@upscalerjs/${name}/${SCALE}x`);
  const address = `http://127.0.0.1:${server.address().port}/model.json`;
  const upscaler = new Upscaler({ model: { ...model, path: address } });
  for await (const image of readImages()) {
    const result = await upscaler.upscale(image, { output: "tensor", ...PATCHES });
    const [height, width] = result.shape;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(width, 0);
    header.writeUInt32LE(height, 4);
    process.stdout.write(header);
    const levels = await tf.tidy(() => result.round().clipByValue(0, 255).toInt()).data();
    process.stdout.write(Buffer.from(levels));
    tf.dispose([image, result]);
  }
  server.close();
}

main(process.argv[2]);

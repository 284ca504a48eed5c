/** Connect's gRPC over Node's HTTP/2, with one change: whatever is amiss with a response, its call is cancelled. */
import type { Transport } from "@connectrpc/connect";
import { createNodeHttpClient } from "@connectrpc/connect-node";
import type { UniversalClientFn } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-grpc";

import type { Connections } from "./connections.js";

/** The most that Connect can take: what `Limits` grants holds, and no limit of our own (protocol F7). */
const MAX_MESSAGE = 0xffffffff;

export function createGrpcTransport(connections: Connections): Transport {
  const client = createNodeHttpClient({ httpVersion: "2", sessionProvider: () => connections });
  return createTransport({
    httpClient: cancelling(client),
    baseUrl: connections.url,
    useBinaryFormat: true,
    interceptors: [],
    acceptCompression: [],
    sendCompression: null,
    compressMinBytes: 1024,
    readMaxBytes: MAX_MESSAGE,
    writeMaxBytes: MAX_MESSAGE,
  });
}

/**
 * Has a response that does not decode end its call with RST_STREAM, CANCEL. Connect would have Node send INTERNAL_ERROR,
 * and Node would half-close the stream before that: to a server, a client that has done writing (protocol P2, A1).
 */
function cancelling(client: UniversalClientFn): UniversalClientFn {
  return async (request) => {
    const call = new AbortController();
    const cancel = () => {
      call.abort(); // without a reason: any other is no cancellation to Connect
    };
    request.signal?.addEventListener("abort", cancel);
    if (request.signal?.aborted === true) cancel();
    const response = await client({ ...request, signal: call.signal });
    const body = response.body[Symbol.asyncIterator]();
    return {
      ...response,
      body: {
        [Symbol.asyncIterator]: () => ({
          next: () => body.next(),
          throw: (error: Error) => {
            cancel();
            return Promise.reject(error);
          },
        }),
      },
    };
  };
}

/** Connect's gRPC over Node's HTTP/2, with one change: whatever is amiss with a response, its call is cancelled. */
import type { Transport } from "@connectrpc/connect";
import { createNodeHttpClient, type Http2SessionManager } from "@connectrpc/connect-node";
import type { UniversalClientFn } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-grpc";

/** What gRPC libraries take by default (protocol F7). */
const MAX_MESSAGE = 4 * 1024 * 1024;

export function createGrpcTransport(baseUrl: string, sessionManager: Http2SessionManager): Transport {
  const client = createNodeHttpClient({ httpVersion: "2", sessionProvider: () => sessionManager });
  return createTransport({
    httpClient: cancelling(client),
    baseUrl,
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
